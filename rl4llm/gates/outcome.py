"""Gates by the outcome of the whole response: whether it ended and whether it was right."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_interval, check_mask, check_response_tensors, check_token_tensors
from rl4llm.gates.base import Gate


def finished_responses(
    truncated: Bool[Tensor, " batch"], response_mask: Bool[Tensor, "batch time"]
) -> Bool[Tensor, "batch time"]:
    """Drop every token of the responses that the length limit cut off, because their scores say little.

        keepₜ = maskₜ ∧ ¬truncated

    Args:
        truncated: True where the length limit came before the end of the response.
        response_mask: True at trained tokens.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes do not match or one of the two is not boolean.

    Example:
        >>> import torch
        >>> finished_responses(torch.tensor([True, False]), torch.ones(2, 2, dtype=torch.bool))
        tensor([[False, False],
                [ True,  True]])

    References:
        Yu et al., 2025. arXiv:2503.14476, section 3.4 (overlong filtering).
    """
    check_mask("finished_responses", truncated=truncated)
    check_token_tensors("finished_responses", response_mask)
    check_response_tensors("finished_responses", response_mask, truncated=truncated)
    return response_mask & ~truncated[:, None]


def correct_responses(
    scores: Float[Tensor, " batch"], response_mask: Bool[Tensor, "batch time"], *, threshold: float = 0.0
) -> Bool[Tensor, "batch time"]:
    """Keep the tokens of the responses that scored above a threshold.

        keepₜ = maskₜ ∧ score > threshold

    A response that could not be scored (NaN) is dropped. As the `where` of a likelihood term it imitates successes.

    Args:
        scores: One number per response; NaN where it could not be scored.
        response_mask: True at trained tokens.
        threshold: What a score must exceed.

    Returns:
        True where the token is kept; a subset of `response_mask`.

    Raises:
        UsageError: If shapes do not match, the mask is not boolean, or the threshold is NaN.

    Example:
        >>> import torch
        >>> correct_responses(torch.tensor([0.0, 1.0]), torch.ones(2, 2, dtype=torch.bool))
        tensor([[False, False],
                [ True,  True]])

    References:
        Yue et al., 2025 (VAPO: likelihood of correct responses). arXiv:2504.05118.
    """
    check_interval("correct_responses", threshold=threshold)
    check_token_tensors("correct_responses", response_mask)
    check_response_tensors("correct_responses", response_mask, scores=scores)
    return response_mask & (scores > threshold)[:, None]


@dataclass(frozen=True)
class FinishedResponses(Gate):
    """Gate that drops truncated responses. See [finished_responses][rl4llm.gates.outcome.finished_responses].

    As the policy's gate it is the actor-only form of overlong filtering: critics still learn from all responses.

    Args:
        in_divisor: Whether their tokens still count in the divisor of the mean.
    """

    in_divisor: bool = False
    paper: ClassVar[str] = "2503.14476"

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `finished_responses` to `batch.truncated`."""
        return finished_responses(batch.truncated, batch.response_mask)


@dataclass(frozen=True)
class CorrectResponses(Gate):
    """Gate that keeps correct responses. See [correct_responses][rl4llm.gates.outcome.correct_responses].

    Args:
        threshold: What a score must exceed; None: the task says which responses are correct (`batch.solved`).
        in_divisor: Whether the tokens of the others still count in the divisor of the mean.
    """

    threshold: float | None = None
    in_divisor: bool = False
    paper: ClassVar[str] = "2504.05118"

    def __post_init__(self) -> None:
        check_interval("CorrectResponses", threshold=self.threshold)

    def __call__(self, batch: RolloutBatch) -> Bool[Tensor, "batch time"]:
        """Apply `correct_responses` to `batch.scores`, or keep the responses that the task calls correct."""
        if self.threshold is None:
            return batch.response_mask & batch.solved[:, None]
        return correct_responses(batch.scores, batch.response_mask, threshold=self.threshold)
