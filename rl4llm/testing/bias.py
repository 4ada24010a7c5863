"""Exact expectations: a small categorical policy, all tuples of its responses, and no sampling error."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from rl4llm.advantages import AdvantageEstimator
from rl4llm.batch import RolloutBatch


def policy_gradient(logits: Float[Tensor, " arm"], scores: Float[Tensor, " arm"]) -> Float[Tensor, " arm"]:
    """Gradient of the expected score of a softmax policy with respect to its logits.

        ∇J = π ⊙ (r − Σ π r)

    Example:
        >>> policy_gradient(torch.zeros(2), torch.tensor([0.0, 1.0]))
        tensor([-0.2500,  0.2500])
    """
    policy = logits.softmax(-1)
    return policy * (scores - (policy * scores).sum())


def all_tuples(logits: Float[Tensor, " arm"], scores: Float[Tensor, " arm"], size: int) -> tuple[RolloutBatch, Tensor]:
    """A batch with every tuple of `size` one-token responses as a group, and the probability of each group."""
    arms = torch.tensor(list(product(range(len(logits)), repeat=size)))
    chosen = arms.flatten()
    log_probs = logits.log_softmax(-1)[chosen][:, None]
    ones = torch.ones(len(chosen), 1, dtype=torch.bool)
    groups = torch.arange(len(arms)).repeat_interleave(size)
    batch = RolloutBatch(
        prompt_ids=torch.zeros(len(chosen), 1, dtype=torch.long),
        prompt_mask=ones,
        response_ids=chosen[:, None],
        response_mask=ones,
        group_ids=groups,
        prompt_uids=groups,
        scores=scores[chosen],
        truncated=~ones[:, 0],
        rewards=scores[chosen][:, None],
        rollout_log_probs=log_probs,
        old_log_probs=log_probs,
        values=torch.full_like(log_probs, 0.3),
        segment_ids=torch.zeros_like(chosen)[:, None],
    )
    return batch, logits.log_softmax(-1)[arms].sum(-1).exp()


def expected_update(
    part: AdvantageEstimator, logits: Float[Tensor, " arm"], scores: Float[Tensor, " arm"], size: int
) -> Float[Tensor, " arm"]:
    """Mean over all tuples of (1/n) Σᵢ Aᵢ ∇ log π(yᵢ), weighted by their probabilities: no sampling error.

    Args:
        part: The estimator; `values` are 0.3 everywhere, a constant baseline.
        logits: Of the policy.
        scores: Of each response that it can give.
        size: n, responses a group.

    Returns:
        The expected update of the logits.

    Example:
        >>> from rl4llm.advantages import LeaveOneOut
        >>> logits, scores = torch.zeros(2), torch.tensor([0.0, 1.0])
        >>> expected_update(LeaveOneOut(), logits, scores, 2)
        tensor([-0.2500,  0.2500])
    """
    batch, probabilities = all_tuples(logits, scores, size)
    advantages = part(batch).advantages[:, 0]
    one_hot = torch.nn.functional.one_hot(batch.response_ids[:, 0], len(logits))
    score_functions = one_hot - logits.softmax(-1)
    weights = probabilities.repeat_interleave(size) / size
    return (weights * advantages)[:, None].mul(score_functions).sum(0)
