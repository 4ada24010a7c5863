"""SAO (arXiv:2607.07508): one response a prompt, a critic that learns first, ratios outside their bounds left out."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, LengthAdaptiveGAE
from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.critics import SymmetricCritic, ValueSpec
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, MaskedImportanceWeighted, PolicyObjective, TokenMean


def sao(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 1,
    critics: ValueSpec | None = SymmetricCritic(),
    advantage: AdvantageEstimator = LengthAdaptiveGAE(alpha=1.5, lam_returns=1.0),
    objective: PolicyObjective = MaskedImportanceWeighted(clip_low=0.3, clip_high=5.0),
    aggregator: Aggregator = TokenMean(),
    updates: Updates = Updates(minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    critic_updates: Updates = Updates(epochs=2, minibatches=4),
    critic_warmup: int = 10,
    learn_critics_first: bool = True,
    **options: object,
) -> PolicyGradient:
    """Train a policy on single responses.

    Args:
        advantage: λ = 1 − 1/(1.5 l); tool output inside a response is stepped over.
        objective: Weight of the ratio to the engine's policy, 0 outside its bounds on either side.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        critics=critics,
        advantage=advantage,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        critic_updates=critic_updates,
        critic_warmup=critic_warmup,
        learn_critics_first=learn_critics_first,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(sao, PromptData, max_steps=120, val_check_interval=40, data_defaults={"prompts_per_step": 128})
