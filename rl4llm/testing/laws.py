"""The laws of every part: what must make no difference to it, and what may not come out of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from rl4llm.batch import SOURCES, RolloutBatch
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator
from rl4llm.testing.faults import FaultError, RoundedError
from rl4llm.testing.views import (
    attached,
    cast,
    floats,
    outputs,
    outputs_with_gradient,
    own_inputs,
    short,
    with_garbage,
    with_gradient,
    with_padding,
    without_holes,
)

_FINITE = (-7.0, 1e3)
_ANYTHING = (float("nan"), float("inf"), -float("inf"), 1e30)


@dataclass(frozen=True)
class Law:
    """Something that holds for a part and every valid batch.

    Args:
        name: Its name, a sentence.
        test: `(part, batch, random)`; raises AssertionError where the law is broken.
        remedy: What usually mends a part that breaks it.
        about: The kind of batch that the law is about, as a field of [Domain][rl4llm.testing.domains.Domain]; a part
            that is not examined on that kind is not asked for the law.
    """

    name: str
    test: Callable[[Any, RolloutBatch, Random], None]
    remedy: str
    about: str | None = None


def close(got: Tensor, expected: Tensor, what: str = "the result") -> None:
    """Raise unless equal up to the rounding of another order of summation.

    Raises:
        RoundedError: If the difference may be the rounding of a narrower dtype.
        AssertionError: If it is larger.
    """
    for name in ("shape", "dtype"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one == other, f"{what} has the {name} {one}, and {other} is expected"
    if torch.allclose(got, expected, rtol=1e-9, atol=1e-9, equal_nan=True):
        return
    said = f"{what} is {short(got)}, and {short(expected)} is expected"
    if torch.allclose(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise RoundedError(f"{said}; they differ by at most {(got - expected).abs().nan_to_num().max():.1g}")
    raise AssertionError(said)


def finite_and_zero_outside(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Every result is finite, and 0 where the mask is False."""
    for result in outputs(part, batch):
        assert result.isfinite().all(), f"the result is not finite: {short(result)}"
        if result.ndim == 2:
            assert result.shape == batch.response_mask.shape, f"the result has shape {tuple(result.shape)}"
            _nothing_outside(result, batch.response_mask)


def _nothing_outside(result: Tensor, mask: Tensor) -> None:
    if result[~mask].any():
        raise FaultError(
            f"the result is {short(result)}, not 0 where response_mask is False",
            "return torch.where(batch.response_mask, result, 0), and for a gate result & batch.response_mask",
        )


def masked_never_read(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Numbers at masked positions change nothing."""
    _ignores(part, batch, _FINITE)


def anything_may_be_masked(part: Any, batch: RolloutBatch, random: Random) -> None:
    """NaN, infinity and numbers that overflow change nothing at masked positions."""
    _ignores(part, batch, _ANYTHING)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether all numbers are equal, NaN to NaN: that there is a NaN is for another law to say."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _ignores(part: Any, batch: RolloutBatch, numbers: Iterable[float]) -> None:
    expected = outputs(part, batch)
    for garbage in numbers:
        for result, clean in zip(outputs(part, with_garbage(batch, garbage)), expected, strict=True):
            assert _equal(result, clean), (
                f"with {garbage:g} at masked positions the result is {short(result)}, and {short(clean)} without it"
            )


def follows_rows(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Permuted rows give permuted results."""
    order = torch.tensor(random.sample(range(len(batch)), len(batch)))
    for result, expected in zip(outputs(part, batch.select(order)), outputs(part, batch), strict=True):
        close(result, expected[order] if expected.ndim else expected, f"with rows {order.tolist()} the result")


def padding_inert(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Columns of padding change nothing."""
    time = batch.response_mask.shape[1]
    padded = with_padding(batch, 1 + random.randrange(4))
    for result, expected in zip(outputs(part, padded), outputs(part, batch), strict=True):
        if result.ndim == 2:
            _nothing_outside(result, padded.response_mask)
        close(result[:, :time] if result.ndim == 2 else result, expected, "with padding the result")


def holes_stepped_over(part: Any, batch: RolloutBatch, random: Random) -> None:
    """A masked token inside a response counts as if it were not there."""
    packed, order = without_holes(batch)
    for result, expected in zip(outputs(part, packed), outputs(part, batch), strict=True):
        close(result, expected.gather(-1, order) if expected.ndim == 2 else expected, "without holes the result")


def group_names_do_not_matter(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Renumbered groups give the same results."""
    renamed = batch.replace(group_ids=1000 - 3 * batch.group_ids)
    for result, expected in zip(outputs(part, renamed), outputs(part, batch), strict=True):
        close(result, expected, "with other group ids the result")


def dtype_preserved(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Results come in the dtype of the inputs and stay finite in it."""
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        for result in outputs(part, cast(batch, dtype)):
            assert result.dtype in (dtype, torch.bool), f"{dtype} in, {result.dtype} out"
            assert result.isfinite().all(), f"not finite in {dtype}"


def inputs_not_mutated(part: Any, batch: RolloutBatch, random: Random) -> None:
    """The batch is left as it was."""
    before = {name: (tensor.clone(), tensor._version) for name, tensor in batch.tensors().items()}
    outputs(part, batch)
    for name, tensor in batch.tensors().items():
        copy, version = before[name]
        assert tensor._version == version, f"{name} was written to in place"
        assert torch.equal(tensor.nan_to_num(12345.0), copy.nan_to_num(12345.0)), f"{name} was changed"


def twice_the_same(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Called twice, it gives the same."""
    for first, second in zip(outputs(part, batch), outputs(part, batch), strict=True):
        assert _equal(first, second), "a second call gives something else"


def what_is_missing_is_named(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Without a field that it reads, a part raises, and says which."""
    inputs = own_inputs(part, batch)
    for name in [name for name in part.reads if name in SOURCES]:
        said = "nothing"
        try:
            outputs(part, batch.replace(**{name: None}), inputs)
        except Exception as error:
            said = str(error)
        assert name in said, f"without {name} it says {said}"


def no_graph(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Results carry no gradient."""
    _, results = outputs_with_gradient(part, with_gradient(batch))
    for result in results:
        assert not result.requires_grad, "the result is attached to the graph of its inputs"


def gradient_reaches_own_inputs_only(part: Any, batch: RolloutBatch, random: Random) -> None:
    """Gradient reaches trained positions of what the policy gave, is finite, and reaches nothing else."""
    _gradient_of(part, with_gradient(batch))


def gradient_survives_anything_masked(part: Any, batch: RolloutBatch, random: Random) -> None:
    """NaN and infinity at masked positions leave the gradient finite, and 0 there."""
    for garbage in _ANYTHING[:2]:
        _gradient_of(part, with_garbage(batch, garbage))


def _gradient_of(part: Any, leaves: RolloutBatch) -> None:
    inputs = {name: x.detach().clone().requires_grad_() for name, x in own_inputs(part, leaves).items()}
    leaves, (result,) = outputs_with_gradient(part, leaves, inputs)
    attached(result).sum().backward()
    for name, tensor in floats(leaves).items():
        if tensor.grad is not None:
            raise FaultError(f"gradient reaches batch.{name}, which is a constant", f"use batch.{name}.detach()")
    for name, tensor in inputs.items():
        if tensor.grad is not None:
            assert tensor.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert not tensor.grad[~leaves.response_mask].any(), f"gradient reaches masked {name}"


def subset_of_the_mask(part: Gate, batch: RolloutBatch, random: Random) -> None:
    """A gate keeps response tokens only, as truth values."""
    (kept,) = outputs(part, batch)
    _nothing_outside(kept, batch.response_mask)


def pieces_add_up(part: Aggregator, batch: RolloutBatch, random: Random) -> None:
    """Microbatches, divided by the count of the whole, add up to the whole."""
    (losses,) = batch.require("advantages", by="pieces_add_up")
    cut = random.randint(0, len(batch))
    count = part.count(batch.response_mask)
    pieces = [part(losses[s], batch.response_mask[s], normalizer=count) for s in (slice(cut), slice(cut, None))]
    close(torch.stack(pieces).sum(), part(losses, batch.response_mask), f"cut after {cut} rows the sum")


DTYPE = Law("the dtype of the inputs is kept", dtype_preserved, "compute in float32 and cast the result back")
FINITE = Law(
    "finite, and 0 where the mask is False",
    finite_and_zero_outside,
    "guard divisions by counts or spreads that may be 0; rl4llm.masked does",
)
UNCHANGED = Law(
    "inputs are not changed", inputs_not_mutated, "write into a copy: avoid x += y, x.mul_(), x[...] = y on a batch's x"
)
STEADY = Law(
    "two calls give the same",
    twice_the_same,
    "draw random numbers from a seed that the content gives, and keep no state between calls",
)
UNIVERSAL = (
    FINITE,
    Law("masked positions are never read", masked_never_read, "reduce over response_mask only, and return 0 elsewhere"),
    Law(
        "masked positions may hold anything",
        anything_may_be_masked,
        "select with torch.where(mask, x, 0) before any arithmetic; x * mask turns NaN into NaN",
        about="padding",
    ),
    Law("permuted rows give permuted results", follows_rows, "go by group_ids, not by the order of rows"),
    Law("padding changes nothing", padding_inert, "divide by counts of the mask, never by the width of a tensor"),
    Law("holes are stepped over", holes_stepped_over, "let the next token be the next trained one", about="masks"),
    Law("the names of groups do not matter", group_names_do_not_matter, "renumber with torch.unique"),
    DTYPE,
    UNCHANGED,
    STEADY,
    Law(
        "what is missing is named",
        what_is_missing_is_named,
        "read the fields with self.take(batch) or batch.require(...)",
    ),
)
CONSTANT = (Law("no graph is returned", no_graph, "compute under torch.no_grad()"),)
DIFFERENTIABLE = (
    Law(
        "gradient reaches the policy's own outputs only",
        gradient_reaches_own_inputs_only,
        "select with torch.where before any arithmetic, so that masked positions get no gradient",
    ),
    Law(
        "the gradient is finite whatever is masked",
        gradient_survives_anything_masked,
        "select with torch.where before exp and log; the gradient of a masked infinity is NaN",
        about="padding",
    ),
)
GATES = (Law("a subset of the response mask", subset_of_the_mask, "and the result with response_mask"),)
AGGREGATORS = (Law("microbatches add up to the whole", pieces_add_up, "divide by `normalizer` where it is given"),)
