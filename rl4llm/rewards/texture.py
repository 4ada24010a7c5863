"""Rewards that read the response alone, by its words or characters: its length and its repetitions."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from rl4llm.checks import UsageError, check_at_least, check_choice
from rl4llm.rewards.base import Verifier

Unit = Literal["words", "characters"]


def _units(response: str, unit: Unit) -> list[str]:
    return response.split() if unit == "words" else list(response)


@dataclass(frozen=True)
class ResponseLength(Verifier):
    """1 if the response has a length within bounds, else 0.

    For a charge by tokens near the length limit of the sampling, see
    [OverlongPenalty][rl4llm.rewards.OverlongPenalty].

    Args:
        least: Fewest units.
        most: Most units; None: no bound.
        unit: What is counted: "words", separated by white space, or "characters".

    Example:
        >>> ResponseLength(most=3)("", "one two three", None), ResponseLength(most=2)("", "one two three", None)
        (1.0, 0.0)
    """

    least: int = 0
    most: int | None = None
    unit: Unit = "words"

    def __post_init__(self) -> None:
        check_at_least("ResponseLength", 0, least=self.least, most=self.most)
        check_choice("ResponseLength", get_args(Unit), unit=self.unit)
        if self.most is not None and self.most < self.least:
            raise UsageError(
                f"ResponseLength: most is {self.most}, least {self.least}; lower the one or raise the other."
            )

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return 1 for a length within the bounds and 0 otherwise."""
        length = len(_units(response, self.unit))
        return float(self.least <= length and (self.most is None or length <= self.most))


@dataclass(frozen=True)
class Repetition(Verifier):
    """The share of a response's n-grams that repeat an earlier one, in [0, 1); give it a negative weight.

        1 − distinct n-grams / n-grams        0 for a response with fewer than n units

    Args:
        size: n, units of an n-gram.
        unit: "words", separated by white space, or "characters".

    Example:
        >>> Repetition(size=2)("", "a b a b a", None)
        0.5
    """

    size: int = 4
    unit: Unit = "words"

    def __post_init__(self) -> None:
        check_at_least("Repetition", 1, size=self.size)
        check_choice("Repetition", get_args(Unit), unit=self.unit)

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return the share of repeated n-grams."""
        units = _units(response, self.unit)
        grams = list(zip(*(units[start:] for start in range(self.size)), strict=False))
        return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
