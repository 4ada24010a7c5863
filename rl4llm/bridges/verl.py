"""verl: `DataProto` as a `RolloutBatch`, and our parts in its registries of estimators and policy losses."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator
from rl4llm.advantages.whiten import Whiten
from rl4llm.batch import RolloutBatch
from rl4llm.bridges.columns import batch_of, column, group_numbers, inside, truth
from rl4llm.bridges.imports import installed
from rl4llm.bridges.policy_loss import check_reads
from rl4llm.bridges.verl_functions import Advantage, Loss, aggregator
from rl4llm.checks import UsageError
from rl4llm.objectives.base import Aggregator, PolicyObjective

__all__ = ["rollout_batch", "register_advantage", "register_objective", "Advantage", "Loss", "aggregator"]

_NAMES = {  # verl's columns that need nothing but another name
    "values": "values",
    "advantages": "advantages",
    "returns": "returns",
    "rollout_log_probs": "rollout_log_probs",
    "old_log_probs": "old_log_probs",
    "ref_log_prob": "ref_log_probs",
}
_CORE = "verl.trainer.ppo.core_algos"


def rollout_batch(data: Any) -> RolloutBatch:
    """Return a `DataProto` as a `RolloutBatch`.

    Columns of numbers and ids are views of verl's memory; masks of integers become truth values, `uid` becomes integer
    `group_ids`, and the scores are the sums of the rewards. `token_level_rewards` are read or, where they are not
    there yet, `token_level_scores`. Where `rollout_log_probs` are missing they are `old_log_probs`.

    Args:
        data: A `DataProto`, or any object with `batch` (tensors by name) and `non_tensor_batch`.

    Returns:
        The batch.

    Raises:
        UsageError: If `responses` are missing, or a column has the wrong shape.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> columns = {"responses": torch.tensor([[5, 6]]), "response_mask": torch.tensor([[1, 1]]),
        ...     "token_level_rewards": torch.tensor([[0.0, 1.0]])}
        >>> rollout_batch(SimpleNamespace(batch=columns, non_tensor_batch={"uid": ["a"]})).scores
        tensor([1.])
    """
    by = "bridges.verl.rollout_batch"
    columns = _columns(by, data)
    responses = column(by, columns, "responses")
    width = responses.shape[1]
    given = columns.get("response_mask")
    mask = truth(column(by, columns, "attention_mask")[:, -width:] if given is None else given)
    found: dict[str, Tensor | None] = {ours: columns.get(theirs) for theirs, ours in _NAMES.items()}
    if found["rollout_log_probs"] is None:
        found["rollout_log_probs"] = found["old_log_probs"]
    rewards = columns.get("token_level_rewards", columns.get("token_level_scores"))
    if rewards is not None:
        found["rewards"], found["scores"] = inside(rewards, mask)
    if "uid" in data.non_tensor_batch:
        found["group_ids"] = group_numbers(data.non_tensor_batch["uid"], mask.device)
    if "prompts" in columns and "attention_mask" in columns:
        prompt_mask = truth(columns["attention_mask"][:, : columns["prompts"].shape[1]])
        found |= {"prompt_ids": columns["prompts"], "prompt_mask": prompt_mask}
    return batch_of(by, mask, {**found, "response_ids": responses})


def _columns(by: str, data: Any) -> dict[str, Any]:
    batch = getattr(data, "batch", None)
    if batch is None or not hasattr(data, "non_tensor_batch"):
        raise UsageError(
            f"{by}: got {type(data).__name__}; pass a DataProto, which has `batch` and `non_tensor_batch`."
        )
    return {name: batch[name] for name in batch.keys()}  # noqa: SIM118 — iterating over a TensorDict gives its rows


def register_advantage(name: str, estimator: AdvantageEstimator, *, whitening: Whiten | None = None) -> Advantage:
    """Register an estimator with verl, to be chosen as `algorithm.adv_estimator=name`.

    Args:
        name: Name in verl's registry.
        estimator: Any estimator that needs rewards, masks and groups alone, which is what verl passes.
        whitening: Whether and how its advantages are whitened.

    Returns:
        The function that was registered.

    Raises:
        UsageError: If verl is not installed, the estimator reads what verl does not pass, or verl knows another
            estimator by this name.
    """
    by, function = "bridges.verl.register_advantage", Advantage(estimator, whitening)
    check_reads(by, estimator, ())
    core = installed(_CORE, by, "verl")
    _check_free(by, name, core.ADV_ESTIMATOR_REGISTRY, function)
    core.register_adv_est(name)(function)
    return function


def register_objective(name: str, objective: PolicyObjective, *, aggregator: Aggregator | None = None) -> Loss:
    """Register an objective with verl, to be chosen as `actor_rollout_ref.actor.policy_loss.loss_mode=name`.

    Args:
        name: Name in verl's registry.
        objective: Any objective that needs advantages and log-probs alone, which is what verl passes.
        aggregator: How the losses become one number; None: as verl's `loss_agg_mode` says.

    Returns:
        The function that was registered.

    Raises:
        UsageError: If verl is not installed, the objective needs what verl does not pass, or verl knows another loss by
            this name.
    """
    by, function = "bridges.verl.register_objective", Loss(objective, aggregator)
    core = installed(_CORE, by, "verl")
    _check_free(by, name, core.POLICY_LOSS_REGISTRY, function)
    core.register_policy_loss(name)(function)
    return function


def _check_free(by: str, name: str, registry: Mapping[str, Any], function: object) -> None:
    """Registering the same part twice is harmless; taking the name of another is an error."""
    if registry.get(name, function) != function:
        raise UsageError(f"{by}: verl knows another function as {name!r}; choose another name.")
