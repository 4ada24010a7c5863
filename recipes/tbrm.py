"""TBRM (arXiv:2505.15311): the logits are Q, and one residual a trajectory is driven to zero."""

import rl4llm.start

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.algorithms import PolicyGradient, Updates, compose
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.models import Pretrained
from rl4llm.objectives import Aggregator, PolicyObjective, SequenceMean, TrajectoryBellmanResidual


def tbrm(
    policy: str | Pretrained = "rl4llm/digits",
    responses_per_prompt: int = 4,
    objective: PolicyObjective = TrajectoryBellmanResidual(beta=0.02),  # short responses take a larger β
    aggregator: Aggregator = SequenceMean(),
    updates: Updates = Updates(minibatches=1),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=1e-4, weight_decay=0.0),
    **options: object,
) -> PolicyGradient:
    """Minimize the trajectory's Bellman residual: no critic, no advantage, no ratio.

    Args:
        objective: From scores to the policy's loss; `--model.objective.calibrated=true` is ReVal's variant.
    """
    return compose(
        policy,
        responses_per_prompt=responses_per_prompt,
        objective=objective,
        aggregator=aggregator,
        updates=updates,
        optimizer=optimizer,
        **options,
    )


if __name__ == "__main__":
    RecipeCLI(tbrm, PromptData, max_steps=100, val_check_interval=25, data_defaults={"prompts_per_step": 64})
