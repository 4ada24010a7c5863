"""How a part is called in a test, and batches that should make no difference to it."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from rl4llm.advantages import AdvantageEstimator, Advantages, Whiten
from rl4llm.axes import aligned
from rl4llm.batch import AXES, PolicyOutput, RolloutBatch, place_scores
from rl4llm.checks import kind_of
from rl4llm.corrections import Correction
from rl4llm.critics import Head, ValueLoss
from rl4llm.errors import GraphError
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.parts import Part
from rl4llm.regularizers import Regularizer
from rl4llm.roles import CONSTANTS
from rl4llm.testing.faults import FaultError

_TOKENS = AXES["response_mask"]


def own_inputs(part: Any, batch: RolloutBatch) -> dict[str, Tensor]:
    """Tensors that a part is given beside the batch, by name; made from fields of the batch."""
    if isinstance(part, PolicyObjective | Regularizer):
        fields_of_output = {
            "log_probs": batch.rollout_log_probs,
            "entropies": batch.entropies,
            "logsumexp": batch.values,
            "values": batch.values if batch.critic_values is None else batch.critic_values[0],
            "top_log_probs": batch.top_log_probs,
        }
        return {name: tensor for name, tensor in fields_of_output.items() if tensor is not None}
    if isinstance(part, ValueLoss):
        (critic_values,) = batch.require("critic_values", by="own_inputs")
        return {"values": critic_values[0]}
    if isinstance(part, Head):
        (critic_values,) = batch.require("critic_values", by="own_inputs")
        steps = torch.arange(part.size, dtype=critic_values.dtype) / part.size
        return {"outputs": critic_values[0][..., None] + steps}
    if isinstance(part, Aggregator | Whiten):
        (advantages,) = batch.require("advantages", by="own_inputs")
        return {"advantages": advantages}
    return {}


def outputs(part: Any, batch: RolloutBatch, inputs: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """What a part gives for a batch, as a list of tensors."""
    inputs = own_inputs(part, batch) if inputs is None else inputs
    batch = in_domain(part, batch)
    if isinstance(part, PolicyObjective | Regularizer):
        given: Any = part(PolicyOutput(**inputs), batch)
    elif isinstance(part, Aggregator):
        given = part(inputs["advantages"], batch.response_mask)
    elif isinstance(part, Head):
        given = part.loss(inputs["outputs"], batch)
    else:
        given = part(*inputs.values(), batch)
    return _as_its_family(part, given, batch)


def _as_its_family(part: Any, given: Any, batch: RolloutBatch) -> list[Tensor]:
    """Return the tensors that a part gave.

    Raises:
        FaultError: If they are not of the type and shape that its family returns.
    """
    if isinstance(part, AdvantageEstimator) and not isinstance(given, Advantages):
        raise FaultError(
            f"it returns {kind_of(given)}", "return Advantages(advantages) or Advantages(advantages, returns)"
        )
    tensors = [given] if isinstance(given, Tensor) else [tensor for tensor in given if tensor is not None]
    for tensor in tensors:
        by_token = isinstance(part, AdvantageEstimator | Gate | Correction)
        if by_token and tensor.shape != batch.response_mask.shape:
            raise FaultError(
                f"it returns {kind_of(tensor)}, and response_mask has the shape {tuple(batch.response_mask.shape)}",
                "return one entry per token; rl4llm.masked.spread(numbers, response_mask) spreads one per response",
            )
        if isinstance(part, PolicyObjective | Regularizer) and not tensor.ndim:
            raise FaultError(
                "it returns one number",
                "return one loss per token, or per response, and leave the mean to an aggregator",
            )
        if isinstance(part, Gate) and tensor.dtype != torch.bool:
            raise FaultError(f"it returns {kind_of(tensor)}", "return truth values, such as numbers > threshold")
    return tensors


def attached(loss: Tensor) -> Tensor:
    """Return the loss.

    Raises:
        FaultError: If no gradient reaches what it was computed from.
    """
    if not loss.requires_grad:
        raise FaultError("no gradient reaches the policy", "compute from policy without detach() and torch.no_grad()")
    return loss


def outputs_with_gradient(
    part: Any, leaves: RolloutBatch, inputs: Mapping[str, Tensor] | None = None
) -> tuple[RolloutBatch, list[Tensor]]:
    """Call a part on a batch with gradient, or without that of the constants if the part refuses them.

    Args:
        part: The part.
        leaves: The result of `with_gradient`.
        inputs: The inputs, as `outputs` takes them.

    Returns:
        The batch that the part accepted, and what it gave.
    """
    try:
        return leaves, outputs(part, leaves, inputs)
    except GraphError:
        leaves = without_gradient(leaves)
        return leaves, outputs(part, leaves, inputs)


def in_domain(part: Any, batch: RolloutBatch) -> RolloutBatch:
    """The batch with scores that the part is made for: any, at least 0, or 0 and 1; or with returns from 0 to 1."""
    domain = getattr(part, "domain", "real")
    if domain == "real":
        return batch
    if domain == "unit":
        returns = batch.returns
        inside = None if returns is None else torch.where(batch.response_mask, returns.sigmoid(), returns)
        return batch.replace(returns=inside)
    scores = batch.scores.abs() if domain == "non-negative" else (batch.scores > 0).to(batch.scores.dtype)
    scores = torch.where(batch.scores.isnan(), batch.scores, scores)
    return with_scores(batch, scores)


def with_scores(batch: RolloutBatch, scores: Tensor) -> RolloutBatch:
    """The batch with other scores, and rewards to match."""
    rewards = place_scores(scores, batch.response_mask).to(batch.rewards.dtype)
    return unchecked(batch, {"scores": scores, "rewards": rewards})


def floats(batch: RolloutBatch) -> dict[str, Tensor]:
    """The floating fields of a batch, by name."""
    return {name: tensor for name, tensor in batch.tensors().items() if tensor.is_floating_point()}


def tokens(batch: RolloutBatch) -> dict[str, Tensor]:
    """Return the fields of a batch that have a time axis, by name."""
    return {name: tensor for name, tensor in batch.tensors().items() if "time" in AXES[name]}


def with_garbage(batch: RolloutBatch, garbage: float) -> RolloutBatch:
    """The batch with a number at every masked position of every floating token field."""
    outside = ~batch.response_mask
    changed = {name: tensor for name, tensor in tokens(batch).items() if tensor.is_floating_point()}
    filled = {name: x.masked_fill(aligned(outside, _TOKENS, AXES[name]), garbage) for name, x in changed.items()}
    return unchecked(batch, filled)


def unchecked(batch: RolloutBatch, changes: Mapping[str, Tensor]) -> RolloutBatch:
    """Return the batch with other tensors of the same kinds, without the checks of a new batch."""
    twin = copy(batch)
    for name, tensor in changes.items():
        object.__setattr__(twin, name, tensor)
    return twin


def with_gradient(batch: RolloutBatch) -> RolloutBatch:
    """The batch with every floating field a leaf with a gradient, set behind the back of its checks."""
    leaves = batch.replace(**{name: tensor.clone() for name, tensor in floats(batch).items()})
    for tensor in floats(leaves).values():
        tensor.requires_grad_()
    return leaves


def without_gradient(batch: RolloutBatch) -> RolloutBatch:
    """Return the batch with the constants of an update detached, for parts that refuse them with a graph."""
    refused = CONSTANTS | {
        "values",
        "entropies",
        "top_log_probs",
    }  # the names of fields that others call old or rollout
    return batch.replace(**{name: x.detach() for name, x in floats(batch).items() if name in refused})


def with_padding(batch: RolloutBatch, columns: int) -> RolloutBatch:
    """The batch with columns of padding on the right of its responses, filled with its last column."""
    changes = {}
    for name, tensor in tokens(batch).items():
        axis = AXES[name].index("time")
        last = tensor.narrow(axis, tensor.shape[axis] - 1, 1)
        changes[name] = torch.cat([tensor, *[last] * columns], axis)
    mask = torch.nn.functional.pad(batch.response_mask, (0, columns))
    return batch.replace(**{**changes, "response_mask": mask})


def without_holes(batch: RolloutBatch) -> tuple[RolloutBatch, Tensor]:
    """The batch with the trained tokens of every row moved to its left edge, and the column each came from."""
    order = (~batch.response_mask).byte().argsort(dim=-1, stable=True)
    changes = {}
    for name, tensor in tokens(batch).items():
        index = aligned(order, _TOKENS, AXES[name]).expand(tensor.shape)
        changes[name] = tensor.gather(AXES[name].index("time"), index)
    return batch.replace(**changes), order


def cast(batch: RolloutBatch, dtype: torch.dtype) -> RolloutBatch:
    """The batch with its floating fields in another dtype."""
    return batch.replace(**{name: tensor.to(dtype) for name, tensor in floats(batch).items()})


def describe(batch: RolloutBatch, part: Any = None) -> str:
    """The fields that say most, and those that the part reads, as lines that can be pasted into a test."""
    shown = ["response_mask", "group_ids", "scores", *(part.reads if isinstance(part, Part) else ())]
    if isinstance(part, PolicyObjective | Regularizer):
        shown += ["rollout_log_probs", "old_log_probs"]
    found = {name: getattr(batch, name) for name in dict.fromkeys(shown)}
    return "\n".join(f"{name}=torch.tensor({_short(x.tolist())})" for name, x in found.items() if x is not None)


def short(tensor: Tensor) -> str:
    """Return the numbers of a tensor as text with six digits each."""
    return _short(tensor.tolist()).replace('float("', "").replace('")', "")


def _short(numbers: Any) -> str:
    if isinstance(numbers, list):
        return f"[{', '.join(map(_short, numbers))}]"
    if isinstance(numbers, float):
        text = f"{numbers:.6g}"
        return text if set(text) & set(".e") else f"{text}.0" if numbers - numbers == 0 else f'float("{text}")'
    return str(numbers)
