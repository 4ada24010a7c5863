"""Sources around critics: what they hand on, what they save, and whom their messages name."""

from dataclasses import dataclass, replace

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.critics import (
    BatchMean,
    ExplainedVarianceSwitch,
    ExplainedVarianceSwitchSource,
    MiniCritics,
    Privileged,
    QuantileHead,
    Readiness,
    Tether,
    TetherSource,
    TrunkCritic,
    ValueSpec,
    blend_coefficient,
    leave_one_out_mean,
    quantile_loss,
    quantile_spread,
    spread_bins,
)
from rl4llm.critics.privileged import after_prompts
from rl4llm.critics.wrapping import with_values
from rl4llm.testing.value_laws import stand_in
from tests.critics.helpers import Said, batch_of, doubles

WRAPPERS = [BatchMean, ExplainedVarianceSwitch, Privileged, Readiness, Tether]
each_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
ONE = torch.ones(1, 1, dtype=torch.bool)


@dataclass(frozen=True)
class Recording(ValueSpec):
    """Says what it was built from."""

    def build(self, source, policy):
        said = Said()
        said.built_from = source, policy
        return said

    def check(self, source, responses_per_prompt):
        """Anything goes."""


@each_wrapper
def test_the_critics_inside_are_built_from_the_same_model_and_policy(wrapper):
    policy = object()
    assert wrapper(Recording()).build("a model", policy).inner.built_from == ("a model", policy)


@each_wrapper
def test_nothing_stands_around_critics_of_the_policy_s_own_loss(wrapper):
    with pytest.raises(UsageError, match=rf"^{wrapper.__name__}: critics=TrunkCritic .*; take MiniCritics or Symm"):
        wrapper(TrunkCritic()).check("rl4llm/digits", 8)


@each_wrapper
def test_it_knows_of_itself_what_the_critics_inside_know(wrapper):
    assert wrapper(MiniCritics(head=QuantileHead())).spreads_returns
    assert not wrapper(MiniCritics()).spreads_returns
    assert not wrapper(MiniCritics()).shares_trunk


def test_a_batch_of_nothing_has_no_prompts_to_lengthen():
    batch = batch_of([5], [0.0]).select(torch.zeros(0, dtype=torch.long))
    assert after_prompts(batch, []).prompt_ids.shape == (0, 0)


def test_the_switch_goes_on_where_it_was():
    switch = ExplainedVarianceSwitchSource(Said(), ExplainedVarianceSwitch(lag=1))
    assert switch.get_extra_state()["explained"].shape == (0,)
    switch._explained = torch.tensor([0.25, -0.5])
    other = ExplainedVarianceSwitchSource(Said(), ExplainedVarianceSwitch(lag=1))
    other.set_extra_state(switch.get_extra_state())
    assert other._explained.tolist() == [0.25, -0.5]
    assert other._explained_before(torch.zeros(2, 1, 1)).tolist() == [0.25, -0.5]
    other.set_extra_state({"explained": torch.zeros(0)})
    assert other._explained is None
    assert other._explained_before(torch.ones(2, 1, 1)).tolist() == [0.0, 0.0]


def logged(source, batch):
    seen = {}
    source.values(batch, replace(stand_in(), log=lambda name, numbers: seen.update({name: numbers.tolist()})))
    return seen


def a_batch():
    return batch_of([5, 5, 6, 6], [1.0, 0.0, 1.0, 0.0]).replace(group_ids=torch.tensor([0, 0, 1, 1]))


def test_a_switch_at_its_threshold_is_off():
    """EV of constant values is 0, which is not above a threshold of 0."""
    batch = a_batch()
    batch = batch.replace(values=torch.full_like(batch.rewards, 0.5))
    seen = logged(ExplainedVarianceSwitchSource(Said(), ExplainedVarianceSwitch(threshold=0.0)), batch)
    assert seen["switch_explained_variance"] == [0.0]
    assert seen["used_share"] == [0.0]


def test_each_of_several_blends_is_logged():
    batch = a_batch()
    batch = batch.replace(values=batch.rewards, critic_values=torch.stack([batch.rewards, batch.rewards]))
    assert "blend_0" not in logged(TetherSource(Said(), Tether()), batch)
    tied = TetherSource(Said(), Tether(bins=2))
    tied.rhos.copy_(torch.tensor([0.25, 0.5]))
    seen = logged(tied, batch)
    assert (seen["blend_0"], seen["blend_1"], seen["blend"]) == (0.25, 0.5, [0.25, 0.5])


# --- rounding of the blend ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_small_gap_is_fitted_and_a_gap_of_rounding_is_not(scale):
    scores, mask = scale * doubles(1.0, 0.0), torch.ones(2, 1, dtype=torch.bool)
    base = scale * doubles(0.5, 0.5)
    toward = doubles(1.0, -1.0)[:, None] * scale
    small, rounding = base[:, None] + 1e-8 * toward, base[:, None] * (1 + 4 * torch.finfo(torch.float64).eps)
    assert blend_coefficient(scores, base, small, mask, clip=False, previous=0.3).item() == pytest.approx(5e7, rel=1e-6)
    assert blend_coefficient(scores, base, rounding, mask, clip=False, previous=0.3).item() == 0.3


# --- whom messages name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tether(bins=0), r"^Tether: bins must be a whole number of at least 1, got 0"),
        (lambda: spread_bins(torch.zeros(1, 1), ONE, bins=0), r"^spread_bins: bins must be a whole number of at least"),
        (lambda: quantile_loss(torch.zeros(1, 1), torch.zeros(1, 1), ONE), r"^quantile_loss: quantiles has shape"),
        (lambda: quantile_spread(torch.zeros(1, 1)), r"^quantile_spread: quantiles has shape \(1, 1\)"),
        (lambda: leave_one_out_mean(torch.zeros(2), torch.zeros(1).long()), r"^leave_one_out_mean: scores has shape"),
        (
            lambda: blend_coefficient(torch.zeros(2), torch.zeros(1), torch.zeros(2, 1), ONE.expand(2, 1)),
            r"^blend_coefficient: baselines has shape \(1,\), response_mask \(2, 1\); pass one entry per response",
        ),
        (
            lambda: blend_coefficient(torch.zeros(1), torch.zeros(1), torch.zeros(2, 1), ONE.expand(2, 1)),
            r"^blend_coefficient: scores has shape \(1,\), response_mask \(2, 1\); pass one entry per response",
        ),
        (
            lambda: blend_coefficient(torch.zeros(1), torch.zeros(1), torch.zeros(1, 1), ONE, previous=torch.inf),
            r"^blend_coefficient: previous must be in \(-inf, inf\), got inf",
        ),
    ],
)
def test_a_message_names_the_function_and_the_argument(unchecked_shapes, call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda batch: with_values(batch, batch.rewards), "with_values"),
        (lambda batch: TetherSource(Said(), Tether()).observe(batch, stand_in()), "Tether"),
        (lambda batch: TetherSource(Said(), Tether(bins=2))._bins(batch), r"Tether\(bins\)"),
        (
            lambda batch: ExplainedVarianceSwitchSource(Said(), ExplainedVarianceSwitch())._switched(batch),
            "ExplainedVarianceSwitch",
        ),
    ],
)
def test_what_is_missing_is_missed_by_name(make, name):
    with pytest.raises(UsageError, match=rf"^{name} needs "):
        make(a_batch().replace(values=None, critic_values=None))
