"""The chance that the answer given most often by k responses is correct."""

from collections import Counter
from collections.abc import Sequence

from rl4llm.checks import UsageError, check_at_least


def majority_rate(answers: Sequence[str | None], correct: Sequence[bool], *, k: int) -> float:
    """Estimate the chance that the majority of k responses to one prompt is correct (maj@k).

        blocks of k responses        w = the answers given most often in a block
        rate = mean over blocks, over w, over the responses that gave it, of their correctness

    Each block of consecutive responses is an independent vote, so the estimate has no bias; a remainder of fewer than
    k responses does not vote. Answers that are tied share the vote, which is the mean over random choices among them.
    A response without an answer does not vote, and a block in which nobody votes is wrong.

    Args:
        answers: The answer extracted from each response; None where there is none.
        correct: Whether each response is correct.
        k: Number of responses that vote.

    Returns:
        A rate in [0, 1].

    Raises:
        UsageError: If k is below 1, there are fewer than k responses, or the two sequences differ in length.

    Example:
        >>> majority_rate(["6", "6", "7", None], [True, True, False, False], k=4)
        1.0
        >>> majority_rate(["6", "7"], [True, False], k=2)
        0.5

    References:
        Wang et al., 2023 (self-consistency). arXiv:2203.11171.
    """
    check_at_least("majority_rate", 1, k=k)
    if len(answers) != len(correct) or len(answers) < k:
        raise UsageError(
            f"majority_rate: {len(answers)} answers, {len(correct)} of correct, k={k}; pass one entry per response "
            "and at least k responses."
        )
    votes = [
        _vote(answers[start : start + k], correct[start : start + k]) for start in range(0, len(answers) - k + 1, k)
    ]
    return sum(votes) / len(votes)


def _vote(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Return the correctness of the most frequent answer, averaged over ties and over who gave it."""
    counts = Counter(answer for answer in answers if answer is not None)
    most = max(counts.values(), default=0)
    winners = {answer for answer, count in counts.items() if count == most}
    right = sum(good for answer, good in zip(answers, correct, strict=True) if answer in winners)
    return right / (most * len(winners)) if winners else 0.0
