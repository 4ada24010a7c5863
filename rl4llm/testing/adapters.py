"""Adapters: a plain function of another library as a part that the laws can be run on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from rl4llm.advantages import AdvantageEstimator, Advantages
from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.gates import Gate
from rl4llm.masked import keep
from rl4llm.objectives import PolicyObjective
from rl4llm.regularizers import Regularizer

_FIELDS = {
    "rewards": lambda batch: batch.rewards,
    "values": lambda batch: batch.values,
    "mask": lambda batch: batch.response_mask.to(batch.rewards.dtype),
    "bool_mask": lambda batch: batch.response_mask,
    "scores": lambda batch: batch.scores,
    "index": lambda batch: batch.group_ids.numpy(),
    "group_ids": lambda batch: batch.group_ids,
    "advantages": lambda batch: batch.advantages,
    "old_log_probs": lambda batch: batch.old_log_probs,
    "ref_log_probs": lambda batch: batch.ref_log_probs,
}


class _Adapted:
    """What adapters share: declarations become properties, and the function's own name is shown."""

    function: Callable[..., Any]
    takes: Sequence[str]
    options: Mapping[str, Any]
    declared: Mapping[str, Any]
    given: ClassVar[frozenset[str]] = frozenset(_FIELDS)

    def __post_init__(self) -> None:
        self._check()
        for name, value in self.declared.items():
            object.__setattr__(self, name, value)

    def _check(self) -> None:
        """Raise unless the function can be called with what it is said to take."""
        name = getattr(self.function, "__name__", repr(self.function))
        if not callable(self.function):
            raise UsageError(f"{name} is not callable; pass the function itself.")
        for unknown in sorted(set(self.takes) - self.given):
            raise UsageError(f"{name}: order names '{unknown}'; known are {', '.join(sorted(self.given))}.")
        try:
            signature(self.function).bind(*self.takes, **self.options)
        except TypeError as error:
            raise UsageError(f"{name}: {error}; it is called as {self}, set order and options to fit.") from None
        except ValueError:  # a built-in function without a signature
            pass

    def __repr__(self) -> str:
        return f"{getattr(self.function, '__name__', self.function)}({', '.join([*self.takes, *self.options])})"


@dataclass(frozen=True, repr=False)
class FunctionEstimator(_Adapted, AdvantageEstimator):
    """An advantage function with the arguments that its library gives it.

    Args:
        function: Returns advantages, or a tuple that begins with advantages and, perhaps, returns.
        takes: Which argument comes when: "rewards", "values", "mask" (of numbers), "bool_mask", "scores", "index"
            (group ids as a NumPy array), "group_ids".
        options: Further keyword arguments.
        declared: Properties that the function promises, such as `{"compares": "group", "invariances": ("shift",)}`.
    """

    function: Callable[..., Any]
    takes: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)
    paper: ClassVar[str] = ""

    def __call__(self, batch: RolloutBatch) -> Advantages:
        """The function's advantages; one number a response is given to each of its tokens."""
        given = self.function(*(_FIELDS[name](batch) for name in self.takes), **self.options)
        advantages, *rest = given if isinstance(given, tuple) else (given,)
        if advantages.ndim == 1:
            advantages = torch.where(batch.response_mask, advantages[:, None], 0.0)
        returns = rest[0] if rest and isinstance(rest[0], Tensor) and rest[0].shape == advantages.shape else None
        return Advantages(advantages, returns)


def from_token_rewards(function: Callable[..., Any], *, order: str = "rewards values mask", **options: Any) -> Any:
    """A function of token rewards, values and a mask of numbers, as verl's and OpenRLHF's GAE.

    Args:
        function: The function.
        order: Its positional arguments, in order ("values rewards mask" for OpenRLHF).
        options: Its further keyword arguments.

    Example:
        >>> def temporal_difference(values, rewards, mask, gamma): ...
        >>> from_token_rewards(temporal_difference, order="values rewards mask", gamma=0.99)
        temporal_difference(values, rewards, mask, gamma)
    """
    return FunctionEstimator(function, tuple(order.split()), options)


def from_scores(function: Callable[..., Any], *, order: str = "scores group_ids", **options: Any) -> Any:
    """A function of one score a response and its group: verl's `index` (NumPy), or integers ("group_ids").

    It is declared to compare the responses of a group.

    Args:
        function: Gives one number a response.
        order: Its positional arguments, in order.
        options: Its further keyword arguments.
    """
    return FunctionEstimator(function, tuple(order.split()), options, {"compares": "group", "smallest_group": 2})


@dataclass(frozen=True, repr=False)
class FunctionObjective(_Adapted, PolicyObjective):
    """A policy loss with the arguments that its library gives it.

    Args:
        function: Returns a loss a token, or a tuple that begins with it.
        takes: Its positional arguments: "old_log_probs", "log_probs", "advantages", "mask" or "bool_mask".
        options: Further keyword arguments.
        declared: Properties that the function promises, such as `{"level": "response"}`.
    """

    function: Callable[..., Any]
    takes: Sequence[str] = ("old_log_probs", "log_probs", "advantages", "mask")
    options: Mapping[str, Any] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)
    given: ClassVar[frozenset[str]] = frozenset({*_FIELDS, "log_probs"})
    paper: ClassVar[str] = ""

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Tensor:
        """The function's loss."""
        given = [policy.log_probs if name == "log_probs" else _FIELDS[name](batch) for name in self.takes]
        loss = self.function(*given, **self.options)
        return loss[0] if isinstance(loss, tuple) else loss


def from_log_probs(
    function: Callable[..., Any], *, order: str = "old_log_probs log_probs advantages mask", **options: Any
) -> Any:
    """A loss of old and new log-probs, advantages and a mask, as verl's, TRL's and OpenRLHF's policy losses.

    It is declared to be the policy gradient while the policy has not moved.

    Args:
        function: Gives a loss a token.
        order: Its positional arguments, in order.
        options: Its further keyword arguments.
    """
    return FunctionObjective(function, tuple(order.split()), options, {"is_policy_gradient": True})


@dataclass(frozen=True, repr=False)
class FunctionPenalty(_Adapted, Regularizer):
    """An estimate of the KL divergence with the arguments that its library gives it.

    Args:
        function: Returns an estimate a token.
        takes: Its positional arguments: "log_probs", "ref_log_probs", "mask" or "bool_mask".
        options: Further keyword arguments.
        declared: Properties that the function promises.
        coef: Weight.
        where: Gate; None: all tokens.
    """

    function: Callable[..., Any]
    takes: Sequence[str] = ("log_probs", "ref_log_probs")
    options: Mapping[str, Any] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)
    coef: float = 1.0
    where: Gate | None = None
    reads: ClassVar[tuple[str, ...]] = ("ref_log_probs",)
    given: ClassVar[frozenset[str]] = frozenset({*_FIELDS, "log_probs"})
    paper: ClassVar[str] = ""

    def __call__(self, policy: PolicyOutput, batch: RolloutBatch) -> Tensor:
        """The function's estimate at the trained tokens; most libraries mask it later."""
        batch.require(*self.reads, by=repr(self))
        given = [policy.log_probs if name == "log_probs" else _FIELDS[name](batch) for name in self.takes]
        if "mask" in self.takes or "bool_mask" in self.takes:
            return self.coef * self.function(*given, **self.options)
        kept = [keep(x.detach() if x is not policy.log_probs else x, batch.response_mask) for x in given]
        return self.coef * keep(self.function(*kept, **self.options), batch.response_mask)


def from_kl(
    function: Callable[..., Any],
    *,
    order: str = "log_probs ref_log_probs",
    value: str | None = "exact",
    gradient: str | None = None,
    **options: Any,
) -> Any:
    """An estimate of KL(π_θ‖π_ref) from log-probs, as verl's `kl_penalty` and TRL's per-token KL.

    Args:
        function: Gives an estimate a token; without a mask among its arguments, it is masked for it.
        order: Its positional arguments, in order.
        value: "exact" if its mean shall be the divergence; None: not tested.
        gradient: Whether the mean of its gradient shall be "exact", "reverse" or "none"; None: not tested.
        options: Its further keyword arguments.

    Example:
        >>> from rl4llm.testing import check_regularizer
        >>> def k3(new, ref): return (ref - new).exp() - (ref - new) - 1
        >>> check_regularizer(from_kl(k3, gradient="reverse"), examples=5)
    """
    declared = {"kl_value": value, "kl_gradient": gradient}
    return FunctionPenalty(function, tuple(order.split()), options, declared)
