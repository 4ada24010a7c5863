"""Laws of whole methods on policies that can be enumerated: whose baseline lowers variance, and who pushes how hard."""

import importlib
import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.advantages import OptimalBaseline
from rl4llm.objectives import SequenceMean, reinforce, topr
from tests.classic_bugs.test_loss import some_batch

# --- OPO: the baseline that its length weight assumes ---------------------------------------------------------------

LENGTHS = torch.tensor([1, 2, 3, 4, 4])  # stop or go on, each with chance 1/2, at most four tokens
CHANCES = torch.tensor([8, 4, 2, 1, 1])  # of 16


def gradients(aggregator):
    """The gradient of each response's own loss per unit of advantage, over logits of "go on" in four states."""
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    rows = []
    for row, length in enumerate(LENGTHS.tolist()):
        goes_on = torch.tensor([[step + 1 < length or row == 4 for step in range(4)]])
        log_probs = torch.where(goes_on, logits.sigmoid().log(), (-logits).sigmoid().log())
        mask = torch.arange(4)[None] < length
        losses = reinforce(log_probs, torch.ones(1, 4, dtype=torch.float64), mask)
        rows.append(torch.autograd.grad(aggregator(losses, mask, normalizer=1), logits)[0])
    return torch.stack(rows)


def variance(gradient, advantages):
    """Trace of the exact covariance of advantage times gradient of one response."""
    chances = CHANCES.double() / 16
    samples = advantages[:, None] * gradient
    return (chances @ samples.square().sum(-1) - (chances @ samples).square().sum()).item()


def opo_advantages(scores):
    """What the estimator gives when a group holds every response as often as the policy draws it."""
    rows = torch.arange(5).repeat_interleave(CHANCES)
    mask = torch.arange(4)[None] < LENGTHS[rows][:, None]
    batch = some_batch(0, rows=1, time=4).select(torch.zeros(16, dtype=torch.long))
    advantages = OptimalBaseline()(_with(batch, mask, scores[rows])).advantages[:, 0]
    return torch.stack([advantages[rows == row][0] for row in range(5)]).double()


def _with(batch, mask, scores):
    return batch.replace(
        response_mask=mask,
        scores=scores,
        rewards=torch.where(mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1), scores[:, None], 0.0),
        group_ids=torch.zeros(16, dtype=torch.long),
    )


def recipe_aggregator():
    recipe = importlib.import_module("recipes.opo").opo
    return inspect.signature(recipe).parameters["aggregator"].default


scores_of_five = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=5, max_size=5).map(
    lambda drawn: torch.tensor(drawn, dtype=torch.float64)
)


@given(scores=scores_of_five)
def test_opo_s_baseline_has_the_least_variance_under_the_aggregator_of_its_recipe(scores):
    gradient, chances = gradients(recipe_aggregator()), CHANCES.double() / 16
    own = variance(gradient, opo_advantages(scores))
    for other in [chances @ scores, torch.zeros(()), scores.mean(), scores.max()]:
        assert own <= variance(gradient, scores - other) + 1e-12


def test_it_is_strictly_less_than_with_the_mean_of_the_group(unchecked_shapes):
    scores = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    gradient, mean = gradients(recipe_aggregator()), CHANCES.double() @ scores / 16
    assert variance(gradient, opo_advantages(scores)) < 0.95 * variance(gradient, scores - mean)


def test_under_a_mean_over_each_response_the_same_baseline_does_harm(unchecked_shapes):
    scores = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    gradient, mean = gradients(SequenceMean()), CHANCES.double() @ scores / 16
    assert variance(gradient, opo_advantages(scores)) > 1.05 * variance(gradient, scores - mean)


# --- TOPR: the effective share of positive responses ----------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("baseline", [-0.5, 0.0, 0.3, 0.6])
def test_topr_s_effective_positive_share_follows_from_the_constant_baseline(unchecked_shapes, chance, baseline):
    """Scores ±1, a right response with the given chance: p (1 − c) / (1 + (1 − 2p) c) of all push is upwards."""
    log_probs = torch.full((2, 1), -1.0, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 1, dtype=torch.bool)
    advantages = torch.tensor([[1.0 - baseline], [-1.0 - baseline]], dtype=torch.float64)
    losses = topr(log_probs, log_probs.detach(), advantages, mask)
    pushes = -torch.autograd.grad(losses.sum(), log_probs)[0][:, 0] * torch.tensor(
        [chance, 1 - chance], dtype=torch.float64
    )
    share = pushes[0] / pushes.abs().sum()
    assert share.item() == pytest.approx(chance * (1 - baseline) / (1 + (1 - 2 * chance) * baseline), rel=1e-12)
