"""SPPO (arXiv:2604.08865): sequence-level PPO, whose critic reads the prompt alone and says the chance of success."""

import rl4llm.start

from rl4llm.advantages import GAE, AdvantageEstimator
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SigmoidHead, SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, PPOClip, TokenMean


def sppo(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 1,
    critics: ValueSpec | None = SymmetricCritic(head=SigmoidHead(), inputs="prompt"),
    advantage: AdvantageEstimator = GAE(gamma=1.0, lam=1.0),
    objective: PolicyObjective = PPOClip(clip_low=0.2, clip_high=0.2),
    aggregator: Aggregator = TokenMean(),
    **options: object,
) -> PolicyGradient:
    """Train a policy, one response a prompt, against the chance that its prompt is solved.

    Args:
        critics: Reads the prompt; a much smaller one does as well in the paper: `--model.critics=MiniCritics`.
        advantage: R − V(x) at every token, since the value does not change along the response.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(sppo, PromptData, max_steps=120, val_check_interval=40, data_defaults={"prompts_per_step": 128})
