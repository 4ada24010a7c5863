r"""`MathVerify`: whether a response is mathematically equal to the answer, by the library math-verify."""

import threading
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from rl4llm.checks import UsageError, check_at_least
from rl4llm.rewards.answers import accepted_texts, after_hashes
from rl4llm.rewards.base import Verifier

_MARKS = ("$", r"\boxed", r"\(", r"\[")  # of mathematics within a text


@dataclass(frozen=True)
class MathVerify(Verifier):
    r"""1 if the response's result is mathematically equal to the answer, else 0.

    Expressions are read and compared by [math-verify](https://github.com/huggingface/Math-Verify): fractions, roots,
    intervals, sets, matrices, equations. The last `\boxed{...}` of a response comes first, then other mathematics in
    it. An answer is an expression (`\frac{1}{2}`), a text with mathematics in it (`$\frac{1}{2}$`), or a solution that
    ends with `#### 72`; a list holds alternatives.

    Args:
        timeout_s: Whole seconds for reading one text and for each comparison; a response that takes longer is wrong.

    Raises:
        UsageError: If math-verify is not installed.
    """

    timeout_s: int = 3

    def __post_init__(self) -> None:
        check_at_least("MathVerify", 1, timeout_s=self.timeout_s)
        if find_spec("math_verify") is None:
            raise UsageError("MathVerify needs the package math-verify; run pip install 'rl4llm[math]'.")

    def prepare(self) -> None:
        """Import math-verify."""
        import math_verify  # noqa: F401

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return 1 for an equal result and 0 otherwise.

        Raises:
            ValueError: If math-verify reads no expression in the answer.
        """
        limit = self.timeout_s if threading.current_thread() is threading.main_thread() else None  # it uses signals
        accepted = [_expressions(_marked(text), limit) for text in accepted_texts(answer)]
        for text, expressions in zip(accepted_texts(answer), accepted, strict=True):
            if not expressions:
                raise ValueError(f"math-verify reads no expression in the answer {text[:80]!r}")
        found = _expressions(response, limit)
        return float(any(_equal(expressions, found, limit) for expressions in accepted))


def _marked(answer: str) -> str:
    """The answer with marks of mathematics, without which math-verify reads its first number only."""
    answer = answer if (result := after_hashes(answer)) is None else result
    return answer if any(mark in answer for mark in _MARKS) else f"${answer.strip()}$"


@lru_cache(maxsize=256)
def _expressions(text: str, limit: int | None) -> Any:
    from math_verify import parse

    return parse(text, parsing_timeout=limit)


def _equal(expressions: Any, found: Any, limit: int | None) -> bool:
    from math_verify import verify

    return verify(expressions, found, timeout_seconds=limit)
