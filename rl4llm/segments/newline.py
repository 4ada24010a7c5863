"""Steps that are lines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.segments.base import Segmenter, text_segments


def newline_segments(
    pieces: Sequence[Sequence[str]], response_mask: Bool[Tensor, "batch time"]
) -> Int[Tensor, "batch time"]:
    r"""One step a line.

        a text is cut before every newline that has something other than white space on both sides

    So a newline belongs to the line that follows it, blank lines in a row open one step, and blank beginnings and ends
    belong to the first and last line. A token belongs where its first character does: one that holds a newline
    inside opens no step. This is VinePPO's rule for GSM8K; blank lines between others are our addition.

    Args:
        pieces: The text of every token, one list a response, one piece a column up to its last trained one.
        response_mask: True at trained tokens.

    Returns:
        Step of every trained token, from 0; 0 where `response_mask` is False.

    Raises:
        UsageError: If the mask is not boolean batch × time or the pieces do not reach its last trained column.

    Example:
        >>> import torch
        >>> newline_segments([["1", "+1", "\n", "=", "2", "\n"]], torch.ones(1, 6, dtype=torch.bool))
        tensor([[0, 0, 1, 1, 1, 1]])

    References:
        Kazemnejad et al., 2024 (VinePPO), authors' code. arXiv:2410.01679.
    """
    return text_segments(
        "newline_segments", pieces, response_mask, lambda text: [match.start() for match in re.finditer("\n", text)]
    )


@dataclass(frozen=True)
class Newline(Segmenter):
    """One step a line. See [newline_segments][rl4llm.segments.newline.newline_segments]."""

    paper: ClassVar[str] = "2410.01679"

    def __call__(
        self, pieces: Sequence[Sequence[str]], response_mask: Bool[Tensor, "batch time"]
    ) -> Int[Tensor, "batch time"]:
        """Line of every trained token."""
        return newline_segments(pieces, response_mask)
