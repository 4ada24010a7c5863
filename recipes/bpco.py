"""BPCO (arXiv:2608.23566): a critic that cannot leave the range of the scores, learned from returns alone."""

import rl4llm.start

from rl4llm.advantages import AdvantageEstimator, LengthAdaptiveGAE
from rl4llm.algorithms import PolicyGradient, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import BoundedHead, ClippedValueLoss, SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import DPPO, Aggregator, PolicyObjective, SequenceSum


def bpco(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 1,
    critics: ValueSpec | None = SymmetricCritic(head=BoundedHead(low=0.0, high=1.0), loss=ClippedValueLoss(clip=0.5)),
    advantage: AdvantageEstimator = LengthAdaptiveGAE(alpha=0.4, lam_returns=1.0),
    objective: PolicyObjective = DPPO(divergence="tv", delta_low=0.2, delta_high=0.2),
    aggregator: Aggregator = SequenceSum(),
    critic_warmup: int = 10,
    **options: object,
) -> PolicyGradient:
    """Train a policy, one response a prompt, against a bounded critic.

    Args:
        critics: One as large as the policy; `head.low` and `head.high` are the range of the scores.
        advantage: λ = 1 − 1/(0.4 l); neither whitened nor divided.
        objective: No gradient where the probability of a token has moved by more than 0.2 the way its advantage asks.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        critic_warmup=critic_warmup,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(bpco, PromptData, max_steps=120, val_check_interval=40, data_defaults={"prompts_per_step": 128})
