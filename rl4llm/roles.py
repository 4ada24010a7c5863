"""What the name of a tensor promises about its numbers, in every function of the library: checked once, here."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor

from rl4llm.errors import GraphError, UsageError

CONSTANTS = frozenset(
    {
        *("old_log_probs", "ref_log_probs", "rollout_log_probs", "rollout_top_log_probs", "present_log_probs"),
        *("old_entropies", "ref_logsumexp", "ref_initial_logsumexp"),
        *("advantages", "returns", "old_values", "optimal_values"),
    }
)
"""Names of tensors that an update takes as constants: they never carry a gradient graph."""
MASKS = frozenset({"mask", "response_mask", "prompt_mask", "counted", "where", "valid", "truncated"})
"""Names of tensors of truth values."""

_AT_MOST_0 = "log-probabilities are at most 0"
_LOG_PROBS = "pass log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0], or use rl4llm.log_probs.token_log_probs"
_FINITE, _REWARDS = "rewards must be finite", "set response_mask to False where there is no reward"
_looked_at: set[tuple[str, str]] = set()


@cache
def rounding_margin(dtype: torch.dtype) -> float:
    """Return how far above 0 the rounding of a dtype may lift a log-prob: √ε, at least that of float32.

    The log-normalizer of logits of size c is off by about c ε, so the log-prob of a certain token may come out as
    positive. Float64 tensors have the margin of float32, as their numbers may have been float32 before.

    Args:
        dtype: A floating dtype.

    Returns:
        3.5e-4 for float32 and float64, 0.03 for float16, 0.09 for bfloat16.

    Example:
        >>> f"{rounding_margin(torch.float32):.1e}", f"{rounding_margin(torch.bfloat16):.1e}"
        ('3.5e-04', '8.8e-02')
    """
    return math.sqrt(max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps))


def check_roles(by: str, read: Tensor | None = None, /, **tensors: Tensor | None) -> None:
    """Raise unless tensors keep what their names promise; None is skipped.

    Names in `MASKS` are boolean and `*ids` are integers. Names in `CONSTANTS` have no gradient graph. `*log_probs` are
    at most 0, up to rounding, and `rewards` are finite. Reading the numbers of a tensor on an accelerator waits for
    it, so they are read in the first call of each function only; under `torch.compile` and `vmap` they are not read.

    Args:
        by: Name of the function, for messages.
        read: Batch × time, True at the entries whose numbers are read; None: all are.
        tensors: The tensors, by the names that make the promises.

    Raises:
        GraphError: If a constant carries a gradient graph.
        UsageError: If another promise is broken. The message has the first wrong number and its place.

    Example:
        >>> check_roles("f", old_log_probs=torch.tensor([-1.0, 0.31]))
        Traceback (most recent call last):
            ...
        rl4llm.errors.UsageError: f: log-probabilities are at most 0; got 0.31 at [1] of old_log_probs: pass ...
    """
    for name, x in tensors.items():
        if x is None:
            continue
        if name in MASKS:
            check_booleans(by, **{name: x})
        if name.endswith("ids"):
            check_integers(by, **{name: x})
        if name in CONSTANTS and x.requires_grad:
            raise GraphError(f"{by}: {name} carries a gradient graph, but it is a constant of the update: detach() it.")
        if name.endswith("log_probs"):
            check_floats(by, **{name: x})
            refuse(by, name, x, read, _AT_MOST_0, _LOG_PROBS, wrong=_above_0, fine=_none_above_0)
        elif name == "rewards":
            refuse(by, name, x, read, _FINITE, _REWARDS, wrong=lambda x: ~x.isfinite(), fine=_has_finite_sum)


def check_booleans(by: str, **masks: Tensor) -> None:
    """Raise unless every mask is boolean: numbers would select by arithmetic, not by truth."""
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise UsageError(f"{by}: {name} must be a bool tensor, got {mask.dtype}; pass {name}.bool().")


def check_integers(by: str, **ids: Tensor) -> None:
    """Raise unless every tensor holds integers: half precision rounds ids beyond 256 (bfloat16) or 2,048 (float16)."""
    for name, x in ids.items():
        if x.is_floating_point() or x.dtype == torch.bool or x.is_complex():
            raise UsageError(f"{by}: {name} must hold integers, got {x.dtype}; pass {name}.long().")


def check_floats(by: str, **numbers: Tensor) -> None:
    """Raise unless every tensor holds floating numbers."""
    for name, x in numbers.items():
        if not x.is_floating_point():
            raise UsageError(f"{by}: {name} must hold floating numbers, got {x.dtype}; pass {name}.float().")


def check_kinds(by: str, tensors: Mapping[str, Tensor], kinds: Mapping[str, str]) -> None:
    """Raise unless every tensor holds numbers of its kind, "Float", "Int" or "Bool"."""
    checks = {"Float": check_floats, "Int": check_integers, "Bool": check_booleans}
    for name, x in tensors.items():
        checks[kinds[name]](by, **{name: x})


def refuse(
    by: str,
    name: str,
    x: Tensor,
    read: Tensor | None,
    rule: str,
    remedy: str,
    *,
    wrong: Callable[[Tensor], Tensor],
    fine: Callable[[Tensor], bool] = lambda x: False,
) -> None:
    """Raise if an entry that is read is wrong, giving the first of them.

    Args:
        by: Name of the function, for messages.
        name: Name of the tensor.
        x: The tensor.
        read: Batch × time, True at the entries whose numbers are read; None: all are.
        rule: What holds for every number.
        remedy: What to do.
        wrong: Gives the entries against the rule.
        fine: A cheaper test that no entry is against the rule; where it fails, `wrong` decides.

    Raises:
        UsageError: If there is a wrong entry.
    """
    if torch.compiler.is_compiling() or not x.numel() or not _may_look(by, name, x):
        return
    x = x.detach()
    with suppress(RuntimeError):  # there are no numbers to look at under vmap and on the meta device
        if fine(x):
            return
        found = wrong(x) if read is None else wrong(x) & read.reshape(*read.shape, *[1] * (x.ndim - read.ndim))
        for first in found.nonzero()[:1]:
            place = [int(index) for index in first]
            raise UsageError(f"{by}: {rule}; got {x[tuple(place)].item():.3g} at {place} of {name}: {remedy}.")


def _may_look(by: str, name: str, x: Tensor) -> bool:
    """Return whether the numbers may be read: always on a CPU, elsewhere once for each function and argument."""
    if x.device.type == "cpu":
        return True
    first = (by, name) not in _looked_at
    _looked_at.add((by, name))
    return first


def _above_0(log_probs: Tensor) -> Tensor:
    return log_probs > rounding_margin(log_probs.dtype)


def _none_above_0(log_probs: Tensor) -> bool:
    return float(log_probs.amax()) <= rounding_margin(log_probs.dtype)


def _has_finite_sum(x: Tensor) -> bool:
    return math.isfinite(x.sum())
