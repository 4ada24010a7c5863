"""TBRM (arXiv:2505.15311): the logits are Q, and one residual a trajectory is driven to zero."""

from rl4llm.algorithms import PolicyGradient, Updates
from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from rl4llm.objectives import PolicyObjective, TrajectoryBellmanResidual


def tbrm(
    policy: str = "rl4llm/digits",
    objective: PolicyObjective = TrajectoryBellmanResidual(beta=0.02),  # short responses take a larger β
    responses_per_prompt: int = 4,
    updates: Updates = Updates(minibatches=1),
    **options: object,
) -> PolicyGradient:
    """Minimize the trajectory's Bellman residual: no critic, no advantage, no ratio.

    Args:
        policy: Hub name, folder or embedded name of the policy.
        objective: From scores to the policy's loss; `--model.objective.calibrated=true` is ReVal's variant.
        responses_per_prompt: Responses to each prompt.
        updates: Optimizer steps on one rollout batch.
        options: Any other slot of `PolicyGradient`; `--model.reference_interval=200` renews the reference.
    """
    return PolicyGradient(
        policy, objective=objective, responses_per_prompt=responses_per_prompt, updates=updates, **options
    )


if __name__ == "__main__":
    RecipeCLI(tbrm, PromptData, max_steps=100, val_check_interval=25, data_defaults={"prompts_per_step": 64})
