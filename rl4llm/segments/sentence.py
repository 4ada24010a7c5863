"""Steps that are sentences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.segments.base import Segmenter, text_segments

# A period after one or two letters, or after a number that opens a line, ends nothing.
_PERIOD = r"(?<!\b[^\W\d_])(?<!\b[^\W\d_]{2})(?<!^\d)(?<!^\d\d)\."
_END = re.compile(rf"(?:{_PERIOD}|[!?])(?=\s)|(?=\n)", re.MULTILINE)


def sentence_segments(
    pieces: Sequence[Sequence[str]], response_mask: Bool[Tensor, "batch time"]
) -> Int[Tensor, "batch time"]:
    """One step a sentence.

        a text is cut after every . ! ? that white space follows, and before every newline

    White space belongs to the sentence that follows it, at the end of the text to the one before. A period inside a
    number ends nothing, nor does one after one or two letters (an abbreviation, a name) or after a number of one or
    two digits that opens a line (a list). A token belongs where its first character does. A simple stand-in for
    VinePPO's long splitter of mathematical prose.

    Args:
        pieces: The text of every token, one list a response, one piece a column up to its last trained one.
        response_mask: True at trained tokens.

    Returns:
        Step of every trained token, from 0; 0 where `response_mask` is False.

    Raises:
        UsageError: If the mask is not boolean batch × time or the pieces do not reach its last trained column.

    Example:
        >>> import torch
        >>> sentence_segments([["So", " it", " is", " 1.5", ".", " Now", "?"]], torch.ones(1, 7, dtype=torch.bool))
        tensor([[0, 0, 0, 0, 0, 1, 1]])

    References:
        Kazemnejad et al., 2024 (VinePPO), authors' code. arXiv:2410.01679.
    """
    return text_segments(
        "sentence_segments", pieces, response_mask, lambda text: [match.end() for match in _END.finditer(text)]
    )


@dataclass(frozen=True)
class Sentence(Segmenter):
    """One step a sentence. See [sentence_segments][rl4llm.segments.sentence.sentence_segments]."""

    paper: ClassVar[str] = "2410.01679"

    def __call__(
        self, pieces: Sequence[Sequence[str]], response_mask: Bool[Tensor, "batch time"]
    ) -> Int[Tensor, "batch time"]:
        """Sentence of every trained token."""
        return sentence_segments(pieces, response_mask)
