import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.objectives import reinforce
from rl4llm.regularizers import KLPenalty, KLReward, kl_k1, kl_k2, kl_k3, kl_penalty, kl_reward
from rl4llm.testing.reference.objectives import loop_kl
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved, random_log_probs

ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
any_estimator = st.sampled_from(list(ESTIMATORS))
STATES, VOCAB = 3, 4


@st.composite
def policies(draw):
    """Logits of a small policy and of its reference: states × vocab."""
    return draw(tensors((STATES, VOCAB), -2.0, 2.0)), draw(tensors((STATES, VOCAB), -2.0, 2.0))


@st.composite
def arguments(draw):
    """Log-probs, those of a reference nearby, and mask."""
    mask = draw(masks())
    log_probs = draw(tensors(tuple(mask.shape), -6.0, -0.01))
    return [log_probs, moved(log_probs, 0.3 * draw(tensors(tuple(mask.shape)))), mask]


def all_tokens(logits):
    """Log-probs of every token of every state, as batch × time: what enumeration sums over."""
    return logits.log_softmax(-1)


def expectation(per_token, logits):
    """Exact E over y ~ π of each state, the sampling probabilities held fixed, summed over states."""
    return (all_tokens(logits).exp().detach() * per_token).sum()


def exact_kl(logits, reference):
    log_probs = all_tokens(logits)
    return (log_probs.exp() * (log_probs - all_tokens(reference))).sum()


def gradient(function, logits):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


def expected_gradient(name, logits, reference, **options):
    mask = torch.ones(STATES, VOCAB, dtype=torch.bool)

    def loss(x):
        return expectation(kl_penalty(all_tokens(x), all_tokens(reference), mask, estimator=name, **options), x)

    return gradient(loss, logits)


@given(policies())
def test_k1_and_k3_have_the_right_expected_value(drawn):
    logits, reference = drawn
    arguments = all_tokens(logits), all_tokens(reference), torch.ones(STATES, VOCAB, dtype=torch.bool)
    exact = exact_kl(logits, reference)
    torch.testing.assert_close(expectation(kl_k1(*arguments), logits), exact)
    torch.testing.assert_close(expectation(kl_k3(*arguments), logits), exact)


def test_the_expected_value_of_k2_is_off_by_the_third_order():
    logits = torch.tensor([[1.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    step = torch.tensor([[1.0, 0.0, -1.0, 2.0]], dtype=torch.float64)
    mask = torch.ones(1, VOCAB, dtype=torch.bool)

    def error(scale):
        reference = logits + scale * step
        return expectation(kl_k2(all_tokens(logits), all_tokens(reference), mask), logits) - exact_kl(logits, reference)

    assert abs(error(1.0)) > 0.01
    assert error(1e-2) / error(1e-3) == pytest.approx(1000, rel=0.05)


@given(policies())
def test_the_expected_gradient_of_k1_is_zero(drawn):
    torch.testing.assert_close(expected_gradient("k1", *drawn), torch.zeros_like(drawn[0]), rtol=0, atol=1e-12)


@given(policies())
def test_the_expected_gradient_of_k2_is_that_of_the_kl(drawn):
    logits, reference = drawn
    exact = gradient(lambda x: exact_kl(x, reference), logits)
    torch.testing.assert_close(expected_gradient("k2", logits, reference), exact, rtol=1e-10, atol=1e-12)


@given(policies())
def test_the_expected_gradient_of_k3_is_that_of_the_other_direction(drawn):
    logits, reference = drawn
    other = gradient(lambda x: exact_kl(reference, x), logits)
    torch.testing.assert_close(expected_gradient("k3", logits, reference), other, rtol=1e-10, atol=1e-12)


@given(any_estimator, policies())
def test_the_straight_through_option_keeps_the_value_and_makes_the_gradient_unbiased(name, drawn):
    logits, reference = drawn
    mask = torch.ones(STATES, VOCAB, dtype=torch.bool)
    arguments = all_tokens(logits), all_tokens(reference), mask
    assert torch.equal(kl_penalty(*arguments, estimator=name, unbiased_gradient=True), ESTIMATORS[name](*arguments))
    exact = gradient(lambda x: exact_kl(x, reference), logits)
    unbiased = expected_gradient(name, logits, reference, unbiased_gradient=True)
    torch.testing.assert_close(unbiased, exact, rtol=1e-10, atol=1e-12)


@given(policies(), st.sampled_from([0.0, 0.1, 2.0]))
def test_in_the_reward_k1_gives_exactly_the_gradient_of_the_kl(drawn, coef):
    logits, reference = drawn
    mask = torch.ones(STATES, VOCAB, dtype=torch.bool)
    old = all_tokens(logits)
    rewards = kl_reward(torch.zeros_like(old), old, all_tokens(reference), mask, coef=coef, estimator="k1")
    got = gradient(lambda x: expectation(reinforce(all_tokens(x), rewards, mask), x), logits)
    exact = gradient(lambda x: coef * exact_kl(x, reference), logits)
    torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-12)


@given(any_estimator, arguments())
def test_estimates_equal_the_reference_loop(name, drawn):
    torch.testing.assert_close(ESTIMATORS[name](*drawn), loop_kl(*drawn, estimator=name), rtol=1e-9, atol=1e-12)


@given(arguments())
def test_k2_and_k3_are_never_negative_and_all_vanish_at_the_reference(drawn):
    assert (kl_k2(*drawn) >= 0).all()
    assert (kl_k3(*drawn) >= 0).all()
    for estimate in ESTIMATORS.values():
        assert (estimate(drawn[0], drawn[0], drawn[2]) == 0).all()


def test_k3_keeps_its_digits_near_the_reference():
    # u = 2⁻¹³: u²/2 = 7.45e-9, where eᵘ − u − 1 in float32 would be all rounding.
    log_probs, reference = torch.tensor([[-1.0]]), torch.tensor([[-1.0 + 2**-13]])
    value = kl_k3(log_probs, reference, torch.tensor([[True]]))
    torch.testing.assert_close(value, torch.tensor([[2.0**-27]]), rtol=2e-3, atol=0)


@pytest.mark.parametrize("log_ratio", [15.0, 19.0, 40.0, 1e3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_gradients_survive_large_log_ratios(name, sign, log_ratio):
    log_probs = torch.tensor([[-2000.0 + sign * log_ratio]], requires_grad=True)
    value = ESTIMATORS[name](log_probs, torch.tensor([[-2000.0]]), torch.tensor([[True]]))
    value.sum().backward()
    slope = {"k1": 1.0, "k2": sign * log_ratio, "k3": 1 - math.exp(min(-sign * log_ratio, 20.0))}[name]
    assert log_probs.grad.item() == pytest.approx(slope, rel=1e-4)
    assert value.isfinite().all()


@given(any_estimator, arguments(), st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]), st.booleans())
def test_masked_positions_are_never_read_and_get_no_gradient(name, drawn, garbage, unbiased):
    mask = drawn[-1]
    results = []
    for clean in (True, False):
        new, reference = (x.clone() if clean else torch.where(mask, x, garbage) for x in drawn[:2])
        new.requires_grad_()
        value = kl_penalty(new, reference, mask, estimator=name, unbiased_gradient=unbiased)
        value.sum().backward()
        results.append((value.detach(), new.grad))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))
    assert all((x[~mask] == 0).all() for x in results[1])


@given(any_estimator, arguments(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_estimates_follow_permuted_rows_and_padding(name, drawn, random, columns):
    value = ESTIMATORS[name](*drawn)
    order = torch.tensor(random.sample(range(len(value)), len(value)))
    assert torch.equal(ESTIMATORS[name](*(x[order] for x in drawn)), value[order])
    padded = ESTIMATORS[name](*(torch.nn.functional.pad(x, (0, columns)) for x in drawn))
    assert torch.equal(padded, torch.nn.functional.pad(value, (0, columns)))


@every_estimator
@pytest.mark.parametrize("unbiased", [False, True])
def test_bfloat16_is_computed_in_float32_and_given_back(name, unbiased):
    log_probs = torch.tensor([[-1.0, -3.0]], dtype=torch.bfloat16)
    reference, mask = torch.tensor([[-1.01, -2.9]]), torch.tensor([[True, True]])
    value = kl_penalty(log_probs, reference, mask, estimator=name, unbiased_gradient=unbiased)
    assert value.dtype == torch.bfloat16
    exact = ESTIMATORS[name](log_probs.double(), reference.double(), mask)
    torch.testing.assert_close(value.double(), exact, rtol=4e-3, atol=0)


@every_estimator
def test_autograd_agrees_with_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    log_probs, reference = random_log_probs(2, 3, 4, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda x: ESTIMATORS[name](x, reference, mask), log_probs.requires_grad_())


@given(rollouts(), st.sampled_from(["k1", "k2", "k3"]), st.booleans(), st.floats(0.0, 5.0))
def test_the_penalty_component_is_its_function_times_coef(batch, name, unbiased, coef):
    component = KLPenalty(coef, name, unbiased_gradient=unbiased)
    gradients = []
    for function in (
        lambda x: component(PolicyOutput(x), batch),
        lambda x: (
            coef * kl_penalty(x, batch.ref_log_probs, batch.response_mask, estimator=name, unbiased_gradient=unbiased)
        ),
    ):
        log_probs = batch.rollout_log_probs.clone().requires_grad_()
        value = function(log_probs)
        gradients.append((value.detach(), torch.autograd.grad(value.sum(), log_probs)[0]))
    assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


@given(rollouts(unscorable=False), st.sampled_from(["k1", "k2", "k3"]), st.floats(0.0, 5.0))
def test_the_reward_component_charges_the_sampling_policy_without_graph(batch, name, coef):
    mask = batch.response_mask
    traced = batch.replace(rewards=batch.rewards.clone().requires_grad_())
    rewards = KLReward(coef, name)(traced)
    assert not rewards.requires_grad
    expected = batch.rewards - coef * ESTIMATORS[name](batch.old_log_probs, batch.ref_log_probs, mask)
    torch.testing.assert_close(rewards, torch.where(mask, expected, 0.0), rtol=1e-12, atol=1e-14)
    dirty = {n: torch.where(mask, getattr(batch, n), torch.nan) for n in ("rewards", "old_log_probs", "ref_log_probs")}
    assert torch.equal(KLReward(coef, name)(batch.replace(**dirty)), rewards)


def test_the_reward_keeps_the_dtype_and_the_input():
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)
    log_probs, mask = torch.tensor([[-1.0, -1.0]]), torch.tensor([[True, False]])
    charged = kl_reward(rewards, log_probs, log_probs - 1, mask, coef=0.5)
    assert charged.dtype == torch.bfloat16
    assert charged.tolist() == [[0.5, 0.0]]
    assert rewards.tolist() == [[1.0, 0.0]]


@given(rollouts())
def test_a_missing_reference_is_named_with_its_source(batch):
    without = batch.replace(ref_log_probs=None)
    with pytest.raises(UsageError, match=r"KLPenalty needs ref_log_probs.*reference policy"):
        KLPenalty()(PolicyOutput(batch.old_log_probs), without)
    with pytest.raises(UsageError, match=r"KLReward needs ref_log_probs.*reference policy"):
        KLReward()(without)
    assert KLPenalty.reads == ("ref_log_probs",)
    assert KLReward.reads == ("ref_log_probs", "old_log_probs")


@pytest.mark.parametrize("kind", [KLPenalty, KLReward])
def test_wrong_hyperparameters_are_refused(kind):
    with pytest.raises(UsageError, match=rf"{kind.__name__}: coef must be in \[0, inf\), got -0.1"):
        kind(coef=-0.1)
    with pytest.raises(UsageError, match=rf"{kind.__name__}: estimator must be one of 'k1', 'k2', 'k3', got 'k4'"):
        kind(estimator="k4")


def test_wrong_tensors_and_options_are_refused(unchecked_shapes):
    mask, right, wrong = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2), torch.zeros(2)
    for name, estimate in ESTIMATORS.items():
        with pytest.raises(UsageError, match=rf"kl_{name}: ref_log_probs has shape \(2,\), response_mask \(2, 2\)"):
            estimate(right, wrong, mask)
        with pytest.raises(UsageError, match=f"kl_{name}: response_mask must be a bool tensor"):
            estimate(right, right, mask.float())
    with pytest.raises(UsageError, match=r"kl_reward: rewards has shape \(2,\), response_mask \(2, 2\)"):
        kl_reward(wrong, right, right, mask)
    with pytest.raises(UsageError, match="kl_reward: coef must be in"):
        kl_reward(right, right, right, mask, coef=-1.0)
    with pytest.raises(UsageError, match="kl_reward: estimator must be one of"):
        kl_reward(right, right, right, mask, estimator="k0")
    with pytest.raises(UsageError, match="kl_penalty: estimator must be one of"):
        kl_penalty(right, right, mask, estimator="k0")


@pytest.mark.parametrize("component", [KLPenalty(0.5, "k2", unbiased_gradient=True), KLReward(0.1, "k3")])
def test_a_component_is_a_value(component):
    assert eval(repr(component)) == component
    assert pickle.loads(pickle.dumps(component)) == component
    assert hash(component) == hash(pickle.loads(pickle.dumps(component)))
    assert component.paper
    with pytest.raises(AttributeError):
        component.coef = 1.0


def test_a_clipped_estimate_has_bounds_and_no_gradient_beyond_them():
    log_probs = torch.tensor([[-4.0, -4.0, -4.0]], dtype=torch.float64, requires_grad=True)
    reference, mask = torch.tensor([[-4.1, -7.0, -0.5]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    k3 = kl_penalty(log_probs, reference, mask, estimator="k3").detach()
    assert k3[0, 0] < 1.5 < k3[0, 1] < k3[0, 2]
    batch = referred(reference, mask)
    penalty = KLPenalty(coef=2.0, estimator="k3", clip=1.5)(PolicyOutput(log_probs), batch)
    torch.testing.assert_close(penalty.detach(), 2.0 * k3.clamp(max=1.5))
    (gradient,) = torch.autograd.grad(penalty.sum(), log_probs)
    assert gradient[0, 0] != 0
    assert gradient[0, 1:].tolist() == [0.0, 0.0]
    below = KLPenalty(coef=1.0, estimator="k1", clip=1.5)(PolicyOutput(log_probs), batch)
    assert below.detach().tolist() == [[pytest.approx(0.1), 1.5, 0.0]]


def referred(reference, mask):
    zeros = torch.zeros_like(reference)
    return RolloutBatch(
        prompt_ids=torch.ones(1, 1, dtype=torch.long),
        prompt_mask=torch.ones(1, 1, dtype=torch.bool),
        response_ids=torch.ones(mask.shape, dtype=torch.long),
        response_mask=mask,
        group_ids=torch.zeros(1, dtype=torch.long),
        prompt_uids=torch.zeros(1, dtype=torch.long),
        scores=zeros[:, 0],
        truncated=~mask[:, 0],
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
        ref_log_probs=reference,
    )


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_leaves_something(clip):
    with pytest.raises(UsageError, match=r"^KLPenalty: clip must be in \(0, inf\], got"):
        KLPenalty(clip=clip)
    assert KLPenalty(clip=math.inf).clip == math.inf
