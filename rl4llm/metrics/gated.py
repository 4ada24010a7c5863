"""Which kinds of tokens a gate drops: the kinds of a vocabulary, and the share that is dropped of each."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torchmetrics import Metric

from rl4llm.checks import check_device, check_given, check_token_tensors
from rl4llm.roles import check_integers

KINDS = ("special", "space", "word", "number", "symbol")


@runtime_checkable
class Vocabulary(Protocol):
    """What is read of a tokenizer."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens."""

    def __hash__(self) -> int:
        """Identity, by which the kinds of a vocabulary are kept."""

    def __len__(self) -> int:
        """Number of tokens, those that were added included."""

    def batch_decode(self, sequences: list[list[int]]) -> list[str]:
        """Texts of sequences of ids."""


def token_kinds(tokenizer: Vocabulary) -> Int[Tensor, " vocab"]:
    """Return the kind of every token of a vocabulary.

    A token is `special` if its tokenizer says so, otherwise `space` if its text is blank, `word` if it holds a letter,
    `number` if it holds a digit but no letter, and `symbol` in all other cases.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Returns:
        Indices into `KINDS`.

    Example:
        >>> from rl4llm.models import Policy
        >>> tokenizer = Policy.load("rl4llm/digits").tokenizer
        >>> [KINDS[kind] for kind in token_kinds(tokenizer)[tokenizer("7=")["input_ids"]]]
        ['number', 'symbol']

    References:
        A diagnostic of this library.
    """
    texts = tokenizer.batch_decode([[index] for index in range(len(tokenizer))])
    special = set(tokenizer.all_special_ids)
    kinds = ["special" if index in special else _kind(text) for index, text in enumerate(texts)]
    return torch.tensor([KINDS.index(kind) for kind in kinds])


def kinds_at(response_ids: Int[Tensor, "*axes"], kinds: Int[Tensor, " vocab"]) -> Int[Tensor, "*axes"]:
    """Return the kind of every token; ids beyond the vocabulary, as padded models have them, are special.

    Args:
        response_ids: The tokens.
        kinds: Kind of every token of the vocabulary, from [token_kinds][rl4llm.metrics.gated.token_kinds].

    Returns:
        Indices into `KINDS`.

    Example:
        >>> kinds_at(torch.tensor([1, 7]), torch.tensor([3, 4]))
        tensor([4, 0])

    Raises:
        UsageError: If ids or kinds are not integers, or stand on different devices.

    References:
        A diagnostic of this library.
    """
    check_given("kinds_at", response_ids=response_ids, kinds=kinds)
    check_integers("kinds_at", response_ids=response_ids, kinds=kinds)
    check_device("kinds_at", response_ids=response_ids, kinds=kinds)
    known = response_ids < len(kinds)
    found = kinds[response_ids.clamp(max=len(kinds) - 1)]
    return torch.where(known, found, KINDS.index("special"))


def _kind(text: str) -> str:
    if not text.strip():
        return "space"
    if any(letter.isalpha() for letter in text):
        return "word"
    return "number" if any(letter.isdigit() for letter in text) else "symbol"


class GatedShare(Metric):
    """Share of the trained tokens of each kind that a gate drops.

        share(k) = #{t : kind(yₜ) = k, dropped} / #{t : kind(yₜ) = k}          over the trained tokens of all batches

    Args:
        kinds: Kind of every token of the vocabulary, from [token_kinds][rl4llm.metrics.gated.token_kinds].
        options: Options of every torchmetrics `Metric`.

    Example:
        >>> metric = GatedShare(torch.tensor([3, 3, 4]))  # two numbers and a symbol
        >>> keep = torch.tensor([[True, False, False]])
        >>> metric.update(keep, torch.tensor([[0, 1, 2]]), torch.tensor([[True, True, True]]))
        >>> metric.compute()
        {'number': tensor(0.5000), 'symbol': tensor(1.)}
    """

    full_state_update = False
    kinds: Tensor
    dropped: Tensor
    count: Tensor

    def __init__(self, kinds: Int[Tensor, " vocab"], **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("kinds", kinds, persistent=False)
        for name in ("dropped", "count"):
            self.add_state(name, torch.zeros(len(KINDS), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        keep: Bool[Tensor, "batch time"],
        response_ids: Int[Tensor, "batch time"],
        response_mask: Bool[Tensor, "batch time"],
    ) -> None:
        """Add the trained tokens of a batch.

        Args:
            keep: What the gate returned: True where a token is kept.
            response_ids: The tokens.
            response_mask: True at trained tokens; nothing else is read.
        """
        check_token_tensors("GatedShare", response_mask, keep=keep, response_ids=response_ids)
        kinds = kinds_at(response_ids[response_mask], self.kinds)
        gone = (~keep)[response_mask].to(self.dropped.dtype)
        self.dropped.index_add_(0, kinds, gone)
        self.count.index_add_(0, kinds, torch.ones_like(gone))

    def compute(self) -> dict[str, Tensor]:
        """Return the share of each kind of which there are tokens."""
        shares = (self.dropped / self.count).float()
        return {kind: shares[index] for index, kind in enumerate(KINDS) if self.count[index] > 0}
