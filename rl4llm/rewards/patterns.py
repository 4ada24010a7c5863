r"""Verifiers by regular expressions: `RegexMatch` compares what was found with the answer, `Format` asks for a form."""

import re
from dataclasses import dataclass
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.rewards.answers import accepted_texts
from rl4llm.rewards.base import Verifier


def _compiled(by: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UsageError(f"{by}: pattern {pattern!r} is no regular expression ({error}); mend it.") from None


@dataclass(frozen=True)
class RegexMatch(Verifier):
    r"""1 if what the pattern finds last in the response is the answer, else 0.

    The group of the pattern, or the whole match if it has none, is compared without the white space at its ends. A dot
    matches newlines too. A pattern that takes exponential time costs a response the time limit of its worker.

    Args:
        pattern: A regular expression with at most one group.

    Example:
        >>> RegexMatch(r"<answer>(.*?)</answer>")("", "<answer>3</answer> <answer> 4 </answer>", "4")
        1.0
    """

    pattern: str

    def __post_init__(self) -> None:
        if _compiled("RegexMatch", self.pattern).groups > 1:
            raise UsageError(
                f"RegexMatch: pattern {self.pattern!r} has several groups; keep one, and write the others as (?:...)."
            )

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return 1 for a match and 0 otherwise."""
        accepted = {text.strip() for text in accepted_texts(answer)}
        found = _compiled("RegexMatch", self.pattern).findall(response)
        return float(bool(found) and found[-1].strip() in accepted)


@dataclass(frozen=True)
class Format(Verifier):
    r"""1 if the response has a form, else 0; the answer is not read.

    Args:
        pattern: A regular expression, in which a dot matches newlines too.
        whole: Whether the response must match as a whole, without the white space at its ends, or only hold a match.

    Example:
        >>> Format(r"<think>.*</think>\s*<answer>.*</answer>")("", "<think>2 + 2</think>\n<answer>4</answer>", None)
        1.0
    """

    pattern: str
    whole: bool = True

    def __post_init__(self) -> None:
        _compiled("Format", self.pattern)

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return 1 for a response of the form and 0 otherwise."""
        pattern = _compiled("Format", self.pattern)
        return float(bool(pattern.fullmatch(response.strip()) if self.whole else pattern.search(response)))
