"""Checks of what a part returns: its type, dtype and shape, and whether it is finite. Errors name the part."""

from typing import Any

from torch import Tensor

from rl4llm.advantages.base import AdvantageEstimator, Advantages
from rl4llm.advantages.whiten import Whiten
from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError, kind_of
from rl4llm.corrections.base import Correction
from rl4llm.gates.base import Gate, truth_values
from rl4llm.objectives.base import PolicyObjective
from rl4llm.parts import Part
from rl4llm.regularizers.base import Regularizer
from rl4llm.rewards.shaping import RewardShaping

_TOKENS = "one number per response token"


class NotFiniteError(UsageError):
    """A part returned NaN or infinity at trained tokens.

    Attributes:
        part: Name of the part.
        what: What it gave, for example "advantages".
        count: How many of its numbers were not finite.
    """

    def __init__(self, part: str, what: str, count: int, hint: str) -> None:
        super().__init__(f"{part} returned {count} non-finite {what} at trained tokens; {hint}.")
        self.part, self.what, self.count = part, what, count


def checked_advantages(part: AdvantageEstimator, batch: RolloutBatch) -> Advantages:
    """Return the advantages of a batch, and its returns where the estimator computes them.

    Raises:
        UsageError: If they are no floating numbers of the shape of `response_mask`.
        NotFiniteError: If one at a trained token is NaN or infinite.
    """
    given: Any = part(batch)
    name = type(part).__name__
    if not isinstance(given, Advantages):
        raise UsageError(f"{name} returned {kind_of(given)}; expected Advantages(advantages, returns).")
    for what, x in given._asdict().items():
        if x is not None or what == "advantages":
            _check_floats(name, x, batch, what)
            _check_finite(part, x, batch, what)
    return given


def checked_whitened(part: Whiten, advantages: Tensor, batch: RolloutBatch) -> Tensor:
    """Return the whitened advantages of a batch. Raises as [checked_advantages][rl4llm.borders.checked_advantages]."""
    return _checked_tokens(part, part(advantages, batch), batch, "advantages")


def checked_weights(part: Correction, batch: RolloutBatch) -> Tensor:
    """Return the weights that a correction gives to the advantages. Raises as `checked_advantages`."""
    return _checked_tokens(part, part(batch), batch, "weights")


def checked_rewards(part: RewardShaping, batch: RolloutBatch) -> Tensor:
    """Return the token rewards after a shaping. Raises as `checked_advantages`."""
    return _checked_tokens(part, part(batch), batch, "rewards")


def checked_gate(part: Gate, batch: RolloutBatch) -> Tensor:
    """Return the tokens that a gate keeps, a subset of `response_mask`.

    Raises:
        UsageError: If it gives no truth values of the shape of `response_mask`, or keeps a token outside of it.
    """
    kept = truth_values(part, batch)
    outside = int((kept & ~batch.response_mask).sum())
    if outside:
        raise UsageError(
            f"{type(part).__name__} kept {outside} tokens outside response_mask; return the result & "
            "batch.response_mask."
        )
    return kept


def checked_loss(part: PolicyObjective, output: PolicyOutput, batch: RolloutBatch) -> Tensor:
    """Return the losses of an objective: one per token or one per response, according to its `level`.

    Whether they are finite is left to whoever sums them: that needs no look at the device for each microbatch.

    Raises:
        UsageError: If they are no floating numbers of that shape.
    """
    losses: Any = part(output, batch)
    name = type(part).__name__
    if part.level == "token":
        _check_floats(name, losses, batch, "losses", "declare level = 'response' if it has one loss per response")
    else:
        expected = (len(batch),)
        if not _is_float(losses) or tuple(losses.shape) != expected:
            raise UsageError(
                f"{name} returned {kind_of(losses)}; expected floats of shape {expected}: one loss per response, as "
                "its level = 'response' declares."
            )
    return losses


def checked_penalty(part: Regularizer, output: PolicyOutput, batch: RolloutBatch) -> Tensor:
    """Return the penalty of every token, times its coefficient. Raises as `checked_loss`."""
    penalty: Any = part(output, batch)
    _check_floats(type(part).__name__, penalty, batch, "penalties")
    return penalty


def checked_values(source: str, batch: object) -> RolloutBatch:
    """Return the batch after a value source has filled in `values` and perhaps `critic_values`.

    Args:
        source: Name of the value source, for messages.
        batch: What its `values` returned.

    Raises:
        UsageError: If it is no batch or holds no `values`.
        NotFiniteError: If a value at a trained token is NaN or infinite; it says which critics gave it.
    """
    if not isinstance(batch, RolloutBatch):
        raise UsageError(f"{source} returned {kind_of(batch)}; expected the batch with values.")
    if batch.values is None:
        raise UsageError(f"{source} returned a batch without values; expected batch.replace(values=...).")
    remedy = "lower the critics' learning rate, or start from an earlier checkpoint"
    if batch.critic_values is not None:
        counts = (~batch.critic_values.isfinite() & batch.response_mask).sum((1, 2)).tolist()
        wrong = ", ".join(str(critic) for critic, count in enumerate(counts) if count)
        if wrong:
            raise NotFiniteError(source, "critic values", sum(counts), f"they are those of critic {wrong}; {remedy}")
    count = _not_finite(batch.values, batch.response_mask)
    if count:
        raise NotFiniteError(source, "values", count, remedy)
    return batch


def _checked_tokens(part: Part, x: Any, batch: RolloutBatch, what: str) -> Tensor:
    _check_floats(type(part).__name__, x, batch, what)
    _check_finite(part, x, batch, what)
    return x


def _check_floats(name: str, x: Any, batch: RolloutBatch, what: str, remedy: str = "") -> None:
    expected = tuple(batch.response_mask.shape)
    if not _is_float(x) or tuple(x.shape) != expected:
        hint = f"; {remedy}" if remedy else ""
        raise UsageError(
            f"{name} returned {kind_of(x)} as {what}; expected floats of shape {expected}: {_TOKENS}{hint}."
        )


def _check_finite(part: Part, x: Tensor, batch: RolloutBatch, what: str) -> None:
    """Raise if a number at a trained token is not finite, naming the first of its inputs that is not either."""
    count = _not_finite(x, batch.response_mask)
    if not count:
        return
    hint = "all that it reads is finite there, so it divides by 0 or overflows itself"
    for field in ("rewards", *part.reads):
        given = getattr(batch, field)
        tokens = given is not None and given.shape == batch.response_mask.shape and _is_float(given)
        if tokens and _not_finite(given, batch.response_mask):
            hint = f"batch.{field} is not finite there either, so look at what gives it"
            break
    raise NotFiniteError(type(part).__name__, what, count, hint)


def _not_finite(x: Tensor, mask: Tensor) -> int:
    return int((~x.isfinite() & mask).sum())


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
