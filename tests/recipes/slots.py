"""Stand-ins for `test_swap.py`: small families, and a recipe that hands what it does not name to `compose`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


class Optimizer:
    def __init__(self, params: list) -> None: ...


class Adaptive(Optimizer):
    def __init__(self, params: list, lr: float = 1e-3, decay: float = 0.01) -> None:
        self.lr, self.decay = lr, decay


class Plain(Optimizer):
    def __init__(self, params: list, lr: float, decay: float = 0.0) -> None:
        self.lr, self.decay = lr, decay


OptimizerFactory = Callable[[list], Optimizer]


class Gate(ABC):
    @abstractmethod
    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Agreement(Gate):
    fraction: float = 0.2
    inverse: bool = False

    def __call__(self) -> None: ...


Same = Agreement  # another path to one class


@dataclass(frozen=True)
class Divergence(Gate):
    fraction: float = 0.3

    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Random(Gate):
    fraction: float = 0.5
    seed: int = 0

    def __call__(self) -> None: ...


class Unfinished(Gate):
    """Forgets to define what a gate is called with."""


class Penalty(ABC):
    @abstractmethod
    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Entropy(Penalty):
    coef: float = 0.01
    where: Gate | None = None

    def __call__(self) -> None: ...


@dataclass(frozen=True)
class KL(Penalty):
    coef: float = 0.5
    where: Gate | None = None

    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Named:
    name: str
    dtype: str | None = None
    layers: int | None = None


class Critics(ABC):
    @abstractmethod
    def build(self) -> None: ...


@dataclass(frozen=True)
class Mini(Critics):
    model: str | Named = "small"
    size: int = 2

    def build(self) -> None: ...


@dataclass(frozen=True)
class Symmetric(Critics):
    model: str | Named | None = None
    size: int = 1

    def build(self) -> None: ...


class Engine(ABC):
    @abstractmethod
    def build(self) -> None: ...


@dataclass(frozen=True)
class Local(Engine):
    rows: int = 8
    top: int = 0

    def build(self) -> None: ...


@dataclass(frozen=True)
class Remote(Engine):
    memory: float = 0.5
    top: int = 1

    def build(self) -> None: ...


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Draws:
    most: int = 10


@dataclass(frozen=True)
class Rollout:
    """What is drawn.

    Args:
        sampling: How.
        engine: By what.
        draws: How often.
        responses: To each prompt.
    """

    sampling: Sampling = Sampling()
    engine: Engine = Local()
    draws: Draws | None = None
    responses: int = 8


@dataclass(frozen=True)
class Updates:
    """Optimizer steps."""

    epochs: int = 1
    minibatches: int = 1


@dataclass(frozen=True)
class Module:
    slots: Mapping[str, Any]


def compose(
    policy: str | Named,
    *,
    rollout: Rollout = Rollout(),
    critics: Critics | None = None,
    correction: Gate | None = None,
    gate: Gate | None = None,
    penalties: Mapping[str, Penalty | None] = MappingProxyType({}),
    updates: Updates = Updates(),
    optimizer: OptimizerFactory = lambda params: Adaptive(params, lr=2e-4),
    critic_updates: Updates = Updates(),
) -> Module:
    """Sort slots into groups.

    Args:
        policy: What is trained.
        rollout: What is drawn.
        critics: Where values come from.
        correction: Between engine and trainer.
        gate: Tokens from which the policy learns.
        penalties: Beside the objective, by name.
        updates: Of the policy.
        optimizer: Of the policy.
        critic_updates: Of each critic.
    """
    return Module(MappingProxyType(dict(locals())))


def recipe(
    policy: str | Named = "digits",
    rollout: Rollout = Rollout(Sampling(temperature=0.7), Local(rows=16), Draws(5)),
    critics: Critics | None = Mini("small", size=4),
    gate: Gate | None = Agreement(fraction=0.05),
    entropy: Penalty | None = Entropy(1e-3, where=Divergence(fraction=0.4)),
    updates: Updates = Updates(minibatches=4),
    optimizer: OptimizerFactory = lambda params: Adaptive(params, lr=1e-5, decay=0.0),
    **options: object,
) -> Module:
    """Train.

    Args:
        gate: Where the critics agree most.
        options: Any other slot.
    """
    return compose(
        policy,
        rollout=rollout,
        critics=critics,
        gate=gate,
        penalties={"entropy": entropy},
        updates=updates,
        optimizer=optimizer,
        **options,
    )
