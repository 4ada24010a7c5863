r"""`NumericMatch`: whether the number that a response ends with is that of the answer."""

import math
from dataclasses import dataclass
from typing import Any, get_args

from rl4llm.checks import check_choice, check_interval
from rl4llm.rewards.answers import Where, accepted_texts, last_number, result_in
from rl4llm.rewards.base import Verifier


@dataclass(frozen=True)
class NumericMatch(Verifier):
    r"""1 if a number of the response is the number of the answer, else 0.

        |x − a| ≤ tolerance · max(1, |a|)        x the response's number, a the answer's

    Digits may be grouped (`1,234`), have an exponent (`1e3`) or be a fraction (`3/4`, `\frac{3}{4}`); signs of currency
    and units are passed over. A text that is the answer may be a whole solution: its number is found as by `"any"`.

    Args:
        where: Where the response says its number: in the last `\boxed{...}` (`"boxed"`), on the line after the last
            `####` (`"hashes"`), as its `"last"` number, or in `"any"` of these places, the first one that there is.
        tolerance: Largest relative difference; absolute for answers of at most 1.

    Example:
        >>> NumericMatch()("", "3 + 4 is 7, times 2 is 14.", "7 * 2\n#### 14")
        1.0
        >>> NumericMatch(where="boxed")("", "3 + 4 is 7, times 2 is 14.", 14)
        0.0
    """

    where: Where = "any"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_choice("NumericMatch", get_args(Where), where=self.where)
        check_interval("NumericMatch", 0.0, ends="[)", tolerance=self.tolerance)

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return 1 for a match and 0 otherwise.

        Raises:
            ValueError: If the answer has no number.
        """
        accepted = [self._number(text) for text in accepted_texts(answer)]
        found = self._found(response)
        if found is None:
            return 0.0
        return float(any(abs(found - one) <= self.tolerance * max(1.0, abs(one)) for one in accepted))

    def extract(self, response: str) -> str | None:
        """Return the number that the response gives, for votes; None if it gives none."""
        found = self._found(response)
        return None if found is None else f"{found:.12g}"

    def _found(self, response: str) -> float | None:
        place = result_in(response, self.where)
        return None if place is None else last_number(place)

    @staticmethod
    def _number(answer: str) -> float:
        number = last_number(result_in(answer, "any") or "")
        if number is None or not math.isfinite(number):
            raise ValueError(f"the answer {answer[:80]!r} holds no number")
        return number
