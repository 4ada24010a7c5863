"""Steps of equal length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.checks import check_at_least, check_token_tensors
from rl4llm.masked import keep
from rl4llm.segments.base import Segmenter


def fixed_token_segments(response_mask: Bool[Tensor, "batch time"], *, tokens: int = 100) -> Int[Tensor, "batch time"]:
    """One step every so many trained tokens.

        id of the k-th trained token of a response, k = 0, 1, ... = ⌊k / tokens⌋

    The last step of a response may be shorter. Masked tokens are not counted.

    Args:
        response_mask: True at trained tokens.
        tokens: Trained tokens of a step.

    Returns:
        Step of every trained token, from 0; 0 where `response_mask` is False.

    Raises:
        UsageError: If the mask is not boolean batch × time or `tokens` is no whole number of at least 1.

    Example:
        >>> import torch
        >>> fixed_token_segments(torch.tensor([[True, True, False, True, True]]), tokens=2)
        tensor([[0, 0, 0, 1, 1]])

    References:
        Kazemnejad et al., 2024 (VinePPO; the variant of the authors' teaching code). arXiv:2410.01679.
    """
    check_token_tensors("fixed_token_segments", response_mask)
    check_at_least("fixed_token_segments", 1, tokens=tokens)
    return keep((response_mask.cumsum(-1) - 1) // tokens, response_mask)


@dataclass(frozen=True)
class FixedTokens(Segmenter):
    """One step every so many trained tokens. See [fixed_token_segments][rl4llm.segments.fixed.fixed_token_segments].

    Args:
        tokens: Trained tokens of a step.
    """

    tokens: int = 100
    paper: ClassVar[str] = "2410.01679"

    def __post_init__(self) -> None:
        check_at_least("FixedTokens", 1, tokens=self.tokens)

    def __call__(
        self, pieces: Sequence[Sequence[str]], response_mask: Bool[Tensor, "batch time"]
    ) -> Int[Tensor, "batch time"]:
        """Step of every trained token; the text is not read."""
        return fixed_token_segments(response_mask, tokens=self.tokens)
