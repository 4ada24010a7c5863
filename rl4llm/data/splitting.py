"""Splits by hash: a question belongs to one split, whatever else is in the data."""

from rl4llm.data.task import Split


def split_of(fingerprint: bytes, validation_share: float, test_share: float) -> Split:
    """Return the split of the question with this [fingerprint][rl4llm.data.prompts.fingerprint].

    The lowest fingerprints are test prompts and those above them validation prompts, so that a larger share only adds
    to what it was.

    Example:
        >>> split_of(bytes(8), validation_share=0.1, test_share=0.1), split_of(b"\\xff" * 8, 0.1, 0.1)
        ('test', 'train')
    """
    place = int.from_bytes(fingerprint, "big") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"
