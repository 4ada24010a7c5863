"""Adapters: a plain function of another library as a part that the laws can be run on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rl4llm.advantages import AdvantageEstimator, Advantages
from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.objectives import PolicyObjective

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
}


@dataclass(frozen=True)
class FunctionEstimator(AdvantageEstimator):
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

    def __post_init__(self) -> None:
        for name, value in self.declared.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"{getattr(self.function, '__name__', self.function)}({', '.join(self.takes)})"

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
        temporal_difference(values, rewards, mask)
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


@dataclass(frozen=True)
class FunctionObjective(PolicyObjective):
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
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, value in self.declared.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"{getattr(self.function, '__name__', self.function)}({', '.join(self.takes)})"

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
