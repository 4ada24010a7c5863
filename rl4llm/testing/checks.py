"""`check_*`: every law that a part's family and its declared properties promise, in one call."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Literal

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.checks import UsageError, check_at_least
from rl4llm.corrections import Correction
from rl4llm.critics import Head, ValueLoss, ValueSource
from rl4llm.gates import Gate
from rl4llm.objectives import Aggregator, PolicyObjective
from rl4llm.regularizers import Regularizer
from rl4llm.rewards import RewardShaping
from rl4llm.testing.batching import BATCHING
from rl4llm.testing.domains import Domain
from rl4llm.testing.estimator_laws import ESTIMATORS
from rl4llm.testing.examination import require
from rl4llm.testing.kl import KL
from rl4llm.testing.laws import AGGREGATORS, CONSTANT, DIFFERENTIABLE, DTYPE, GATES, UNIVERSAL, Law
from rl4llm.testing.objective_laws import OBJECTIVES
from rl4llm.testing.reward_laws import check_reward
from rl4llm.testing.value_laws import VALUE_SOURCES
from rl4llm.testing.whiten_laws import WHITEN

# A family's laws; the first family that a part belongs to is its own.
LAWS: dict[type, tuple[Law, ...]] = {
    AdvantageEstimator: UNIVERSAL + CONSTANT + ESTIMATORS,
    Whiten: UNIVERSAL + CONSTANT + WHITEN,
    Gate: UNIVERSAL + CONSTANT + GATES,
    PolicyObjective: UNIVERSAL + DIFFERENTIABLE + OBJECTIVES + BATCHING,
    Regularizer: UNIVERSAL + DIFFERENTIABLE + BATCHING + KL,
    ValueLoss: UNIVERSAL + DIFFERENTIABLE,
    Head: UNIVERSAL + DIFFERENTIABLE,
    Aggregator: tuple(law for law in UNIVERSAL if law is not DTYPE) + DIFFERENTIABLE + AGGREGATORS,
    Correction: UNIVERSAL + CONSTANT,
    RewardShaping: UNIVERSAL + CONSTANT,
    ValueSource: VALUE_SOURCES,
}


def laws_of(part: Any) -> tuple[Law, ...]:
    """The laws that a part must keep.

    Args:
        part: An instance of any family.

    Raises:
        UsageError: If it belongs to no family, or cannot be called as its family is; a plain function needs an adapter.

    Example:
        >>> from rl4llm.gates import AgreementGate
        >>> [law.name for law in laws_of(AgreementGate())][:2]
        ['finite, and 0 where the mask is False', 'masked positions are never read']
    """
    for family, laws in LAWS.items():
        if isinstance(part, family):
            _check_call(part, family)
            return laws
    raise UsageError(f"check: {_named(part)}")


def _named(other: Any) -> str:
    """Return what something that is no part is, and what to pass instead."""
    if isinstance(other, type):
        return f"{other.__name__} is a class; pass an instance, such as {other.__name__}()."
    if not callable(other):
        return f"{other!r} is no part; pass an instance of a family, such as an AdvantageEstimator or a Gate."
    return (
        f"{getattr(other, '__qualname__', repr(other))} belongs to no family of parts; wrap a plain function with "
        "from_scores, from_token_rewards, from_log_probs or from_kl of rl4llm.testing."
    )


def _check_call(part: Any, family: type) -> None:
    """Raise unless a part takes the arguments that its family is called with."""
    if "__call__" not in vars(family):
        return
    wanted, (_, *given) = signature(family.__call__), signature(family.__call__).parameters.values()
    by_name = {one.name: one for one in given if one.kind is one.KEYWORD_ONLY}
    try:
        signature(part).bind(*given[: len(given) - len(by_name)], **by_name)
    except TypeError as error:
        names = ", ".join(one for one in wanted.parameters if one != "self")
        raise UsageError(f"check: {type(part).__name__}.__call__: {error}; the loop calls it with ({names}).") from None


def check(
    part: Any,
    *,
    examples: int = 100,
    rows: Literal["any", "non-empty"] = "any",
    masks: Literal["any", "contiguous"] = "any",
    scores: Literal["any", "scored"] = "any",
    groups: Literal["any", "differing"] = "any",
    padding: Literal["any", "finite"] = "any",
) -> None:
    """Run every law on a part and raise one error that names every cause for which laws are broken.

    The last five arguments state what the part is made for, as [Domain][rl4llm.testing.domains.Domain] explains; by
    default it is examined on every valid batch.

    Args:
        part: Of any family: an estimator, a gate, an objective, an aggregator, a regularizer, a value source, ...
        examples: Batches to draw for each law.
        rows: "non-empty": it is made for responses with at least one token.
        masks: "contiguous": for responses that begin in the first column and have no holes.
        scores: "scored": for responses that all could be scored.
        groups: "differing": for groups of at least two responses with different scores.
        padding: "finite": for masked positions that hold ordinary numbers, not NaN or infinity.

    Raises:
        BrokenLawsError: With the smallest counterexample and the usual remedy for each cause.
        UsageError: If the part belongs to no family.

    Example:
        >>> from rl4llm.advantages import LeaveOneOut
        >>> check(LeaveOneOut(), examples=5)
    """
    check_at_least("check", 1, examples=examples)
    domain = Domain(rows=rows, masks=masks, scores=scores, groups=groups, padding=padding)
    require(part, laws_of(part), examples=examples, domain=domain)


def _checker(family: type, name: str) -> Callable[..., None]:
    def check_family(part: Any, **options: Any) -> None:
        laws_of(part)
        if not isinstance(part, family):
            raise UsageError(f"{name}: {part!r} is no {family.__name__}; `check` finds the family of any part.")
        check(part, **options)

    check_family.__name__ = check_family.__qualname__ = name
    check_family.__doc__ = f"As [check][rl4llm.testing.checks.check], for a {family.__name__}."
    return check_family


check_advantage_estimator = _checker(AdvantageEstimator, "check_advantage_estimator")
check_gate = _checker(Gate, "check_gate")
check_objective = _checker(PolicyObjective, "check_objective")
check_aggregator = _checker(Aggregator, "check_aggregator")
check_regularizer = _checker(Regularizer, "check_regularizer")
check_value_source = _checker(ValueSource, "check_value_source")

__all__: Sequence[str] = [
    "LAWS",
    "check",
    "check_advantage_estimator",
    "check_aggregator",
    "check_gate",
    "check_objective",
    "check_regularizer",
    "check_reward",
    "check_value_source",
    "laws_of",
]
