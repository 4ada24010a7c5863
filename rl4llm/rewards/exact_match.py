"""`ExactMatch`: whether a response is the answer, letter by letter after normalization."""

import string
import unicodedata
from dataclasses import dataclass
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.rewards.answers import accepted_texts
from rl4llm.rewards.base import Verifier

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class ExactMatch(Verifier):
    r"""1 if the response is the answer, else 0. An answer that is a list holds alternatives.

    Args:
        after: Compare only what follows the last occurrence of this text, such as `"Answer:"`; a response without it is
            wrong.
        case_sensitive: Whether capital letters differ from small ones.
        space_sensitive: Whether white space counts; if not, each stretch of it is one space, and none at the ends.
        punctuation_sensitive: Whether the punctuation marks of ASCII count.

    Example:
        >>> ExactMatch(after="Answer:", case_sensitive=False)("", "I think so. Answer:  New\nYork", "new york")
        1.0
    """

    after: str | None = None
    case_sensitive: bool = True
    space_sensitive: bool = False
    punctuation_sensitive: bool = True

    def __post_init__(self) -> None:
        if self.after == "":
            raise UsageError("ExactMatch: after is an empty text; name the text before the answer, or leave it null.")

    def __call__(self, prompt: Any, response: str, answer: Any) -> float:
        """Return 1 for a match and 0 otherwise."""
        accepted = {self._normalized(text) for text in accepted_texts(answer)}
        return float(self.extract(response) in accepted)

    def extract(self, response: str) -> str | None:
        """Return the answer that is compared, for votes too; None if the response has not the text before it."""
        if self.after is not None:
            _, marker, response = response.rpartition(self.after)
            if not marker:
                return None
        return self._normalized(response)

    def _normalized(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        text = text if self.case_sensitive else text.casefold()
        text = text if self.punctuation_sensitive else text.translate(_PUNCTUATION)
        return text if self.space_sensitive else " ".join(text.split())
