"""The models of a composition: checked before anything is loaded, built, and sharded where the strategy asks."""

from typing import Any, NamedTuple

from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from rl4llm.algorithms.choices import CriticLearning
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.strategy import shard
from rl4llm.checks import UsageError
from rl4llm.critics import ValueModel, ValueSource
from rl4llm.models import ModelSource, Policy, check_context, check_model, reference_of
from rl4llm.progress import progress


def check_models(source: ModelSource, composition: Composition, critic_learning: CriticLearning) -> None:
    """Raise one line if parts or models do not fit together, before any weight is read."""
    composition.check()
    check_model(source)
    composition.rollout.engine.check(source)
    shortest = 1 + composition.rollout.sampling.max_response_tokens  # what prompts there are is seen with the data
    check_context(source, shortest)
    critics = composition.credit.critics
    if critics is None:
        return
    critics.check(source, composition.rollout.responses_per_prompt)
    critics.check_context(shortest)
    if critic_learning.first and critics.sees_scores:
        raise UsageError(
            f"learn_critics_first=true would show critics={type(critics).__name__} the scores that its values are "
            "compared with; set --model.learn_critics_first=false."
        )


def check_learners(critics: ValueSource | None, learning: CriticLearning) -> None:
    """Raise if critics are to warm up and none learns by gradient."""
    if learning.warmup and not (critics is not None and critics.learners):
        raise UsageError(
            f"critic_warmup={learning.warmup}, but there are no critics that learn by gradient; "
            "set --model.critic_warmup=0."
        )


class Models(NamedTuple):
    """The models of a composition.

    Attributes:
        policy: The policy that is trained.
        critics: The value source; None for critic-free methods.
        reference: The frozen reference; None where no part reads it.
    """

    policy: Policy
    critics: ValueSource | None
    reference: Policy | None


def build_models(source: ModelSource, composition: Composition) -> Models:
    """Load the policy, the value source and, only if a part reads it, the frozen reference."""
    with progress.phase("loading the policy"):
        policy = Policy.load(source)
    spec, critics, reference = composition.credit.critics, None, None
    if spec is not None:
        with progress.phase(f"building the critics: {type(spec).__name__}"):
            critics = spec.build(source, policy)
    if composition.refers:
        with progress.phase("loading the reference policy"):
            moves = composition.loss.reference_interval is not None
            reference = reference_of(policy, source, moves=moves)
    return Models(policy, critics, reference)


def build_optimizer(name: str, make: OptimizerCallable, module: nn.Module) -> Optimizer:
    """Return the optimizer of a model.

    Raises:
        UsageError: If its settings are out of range, or the model trains no weight.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError(f"{name} has no weight that is trained; set requires_grad on some, or give it an adapter.")
    try:
        return make(trained)
    except (ValueError, TypeError) as error:
        flag = "--model.optimizer" if name == "policy" else "--model.critic_optimizer"
        raise UsageError(f"the optimizer of {name} refuses its settings ({error}); change {flag}.") from error


def shard_models(module: Any) -> None:
    """Shard policy, reference and every critic layer by layer under `ModelParallelStrategy`; else change nothing."""
    trainer = module.trainer
    if not isinstance(trainer.strategy, ModelParallelStrategy) or isinstance(module.policy.model, FSDPModule):
        return
    mesh, precision = module.device_mesh["data_parallel"], str(trainer.precision)
    for policy in (module.policy, module.reference):
        if policy is not None and not isinstance(policy.model, FSDPModule):  # a reference may share the policy's model
            shard(policy.model, [policy.value_head] if policy.value_head is not None else [], mesh, precision)
    for critic in module.critics.modules() if module.critics is not None else ():
        if isinstance(critic, ValueModel):
            shard(critic.backbone, [critic.head], mesh, precision)
