"""From response tokens back to text."""

from jaxtyping import Int
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.models import Policy


def decode_responses(policy: Policy, batch: RolloutBatch) -> list[str]:
    """Decode responses up to the end of what was generated, without special tokens."""
    return decode(policy, batch.response_ids, batch.widths)


def decode(policy: Policy, ids: Int[Tensor, "batch time"], widths: Int[Tensor, " batch"]) -> list[str]:
    """Decode the first `widths` tokens of each row, without special tokens."""
    rows = [row[:width] for row, width in zip(ids.tolist(), widths.tolist(), strict=True)]
    return _texts(policy, rows)


def decode_pieces(policy: Policy, batch: RolloutBatch) -> list[list[str]]:
    """Decode each response token, up to the end of what was generated; the pieces of a row join to its text."""
    rows = [row[:width] for row, width in zip(batch.response_ids.tolist(), batch.widths.tolist(), strict=True)]
    known = sorted({ident for row in rows for ident in row})
    single = dict(zip(known, _texts(policy, [[ident] for ident in known]), strict=True))
    texts = decode_responses(policy, batch)
    pieces = [[single[ident] for ident in row] for row in rows]
    return [
        own if "".join(own) == text else _by_context(policy, row, text)
        for own, row, text in zip(pieces, rows, texts, strict=True)
    ]


def _by_context(policy: Policy, row: list[int], text: str) -> list[str]:
    """Return what each token adds, for tokenizers whose tokens depend on their neighbours."""
    pieces = _by_windows(policy, row)
    return pieces if "".join(pieces) == text else _by_prefixes(policy, row)


def _by_windows(policy: Policy, row: list[int]) -> list[str]:
    """Return what each token adds to the text of the piece before it, which takes time linear in the row."""
    pieces, start, said = [], 0, 0
    for end in range(1, len(row) + 1):
        before, after = _texts(policy, [row[start:said], row[start:end]])
        complete = _complete(after, end, row)
        pieces.append(after[len(before) :] if complete else "")
        start, said = (said, end) if complete else (start, said)
    return pieces


def _by_prefixes(policy: Policy, row: list[int]) -> list[str]:
    """Return what each token adds to the whole text before it, which takes time quadratic in the row."""
    texts = _texts(policy, [row[:end] for end in range(len(row) + 1)])
    pieces, said = [], 0
    for end, text in enumerate(texts[1:], start=1):
        complete = _complete(text, end, row)
        pieces.append(text[said:] if complete else "")
        said = len(text) if complete else said
    return pieces


def _complete(text: str, end: int, row: list[int]) -> bool:
    """Whether the text so far ends in a whole character; half of one stays with the token that ends it."""
    return end == len(row) or not text.endswith("�")


def _texts(policy: Policy, rows: list[list[int]]) -> list[str]:
    """One text per row; a tokenizer takes no rows at all for one row and returns one empty text."""
    return policy.tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []
