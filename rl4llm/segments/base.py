"""The family of segmenters: `(pieces of text, response_mask) -> segment_ids`."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.checks import UsageError, check_token_tensors
from rl4llm.segment_ids import consecutive_segments


class Segmenter(ABC):
    """Where one step of a response ends and the next begins."""

    @abstractmethod
    def __call__(
        self, pieces: Sequence[Sequence[str]], response_mask: Bool[Tensor, "batch time"]
    ) -> Int[Tensor, "batch time"]:
        """Step of every trained token: 0 at the first one of its response, then never less and at most one more.

        Args:
            pieces: The text of every token, one list a response, one piece a column up to its last trained one.
            response_mask: True at trained tokens. The others open no step and get 0.
        """


def text_segments(
    by: str,
    pieces: Sequence[Sequence[str]],
    response_mask: Bool[Tensor, "batch time"],
    cuts: Callable[[str], Iterable[int]],
) -> Int[Tensor, "batch time"]:
    """Segments of tokens from cuts in text: a token belongs where its first character does.

    Args:
        by: Who asks, for messages.
        pieces: The text of every token, one list a response.
        response_mask: True at trained tokens.
        cuts: Positions in a text before which a step may begin.
    """
    check_token_tensors(by, response_mask)
    _check_pieces(by, pieces, response_mask)
    ids = torch.zeros(response_mask.shape, dtype=torch.long)
    for row, texts in enumerate(pieces):
        text = "".join(texts)
        steps = text_steps(text, cuts(text))
        begins = accumulate((len(piece) for piece in texts), initial=0)
        numbers = [bisect_right(steps, begin) - 1 for begin, _ in zip(begins, texts, strict=False)]
        ids[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return consecutive_segments(ids.to(response_mask.device), response_mask)


def text_steps(text: str, cuts: Iterable[int]) -> list[int]:
    """Where the steps of a text begin, from where they may: a blank part joins what follows, at the end what precedes.

    Example:
        >>> text_steps(" a b ", [1, 2, 3, 4])
        [0, 2]
    """
    steps = [0]
    for cut in sorted(set(cuts)):
        if text[steps[-1] : cut].strip() and text[cut:].strip():
            steps.append(cut)
    return steps


def _check_pieces(by: str, pieces: Sequence[Sequence[str]], response_mask: Tensor) -> None:
    batch, time = response_mask.shape
    if len(pieces) != batch:
        raise UsageError(f"{by}: {len(pieces)} lists of pieces for {batch} responses; pass one list a response.")
    columns = torch.arange(1, time + 1, device=response_mask.device)
    widths = (response_mask * columns).amax(-1).tolist() if time else [0] * batch
    for row, (texts, width) in enumerate(zip(pieces, widths, strict=True)):
        if not width <= len(texts) <= time:
            raise UsageError(
                f"{by}: response {row} has {len(texts)} pieces of text, trained tokens up to column {width} of {time}; "
                "pass one piece a column."
            )
