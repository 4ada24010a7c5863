"""Laws of every per-token objective of the family; what only one of them does stands at the end."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.objectives import (
    CISPO,
    DPPO,
    SAPO,
    TOPR,
    GSPOToken,
    ImportanceWeighted,
    MaskedImportanceWeighted,
    MinPrefixRatio,
    PPOClip,
    RatioVariance,
    Reinforce,
    SoLS,
    cispo,
    dppo,
    gspo_token,
    importance_weighted,
    masked_importance_weighted,
    min_prefix_ratio,
    ppo_clip,
    ratio_variance,
    reinforce,
    sapo,
    sols,
    topr,
)
from rl4llm.testing.reference.objectives import loop_importance_weighted, loop_ppo_clip, loop_reinforce
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved, random_log_probs

OBJECTIVES = {
    "reinforce": lambda new, old, advantages, mask: reinforce(new, advantages, mask),
    "importance_weighted": importance_weighted,
    "masked_importance_weighted": masked_importance_weighted,
    "ppo_clip": ppo_clip,
    "ppo_clip_dual": lambda *tensors: ppo_clip(*tensors, clip_low=0.1, clip_high=0.3, dual_clip=1.1),
    "cispo": cispo,
    "dppo_tv": lambda *tensors: dppo(*tensors, delta_low=0.05, delta_high=0.1, weight_cap=2.0),
    "dppo_kl": lambda *tensors: dppo(*tensors, divergence="kl"),
    "min_prefix_ratio": min_prefix_ratio,
    "sapo": sapo,
    "sols": sols,
    "topr": topr,
    "topr_token": lambda *tensors: topr(*tensors, whole_response=False),
    "ratio_variance": ratio_variance,
    "gspo_token": gspo_token,
}
RESTORING = {"ratio_variance"}  # pulls back to ratio 1 whatever the advantage
COMPONENTS = {
    "reinforce": Reinforce(),
    "importance_weighted": ImportanceWeighted(),
    "masked_importance_weighted": MaskedImportanceWeighted(),
    "ppo_clip": PPOClip(),
    "ppo_clip_dual": PPOClip(clip_low=0.1, clip_high=0.3, dual_clip=1.1),
    "cispo": CISPO(),
    "dppo_tv": DPPO(delta_low=0.05, delta_high=0.1, weight_cap=2.0),
    "dppo_kl": DPPO("kl"),
    "min_prefix_ratio": MinPrefixRatio(),
    "sapo": SAPO(),
    "sols": SoLS(),
    "topr": TOPR(),
    "topr_token": TOPR(whole_response=False),
    "ratio_variance": RatioVariance(),
    "gspo_token": GSPOToken(),
}
ROLLOUT_ANCHORED = {"dppo_tv", "dppo_kl", "sols", "masked_importance_weighted"}
BOUNDS = st.tuples(st.sampled_from([0.0, 0.1, 0.2, 1.0]), st.sampled_from([0.0, 0.1, 0.3, 5.0]))
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
any_objective = st.sampled_from(list(OBJECTIVES.values()))
any_following = st.sampled_from([f for name, f in OBJECTIVES.items() if name not in RESTORING])
any_component = st.sampled_from(list(COMPONENTS))
every_component = pytest.mark.parametrize("name", COMPONENTS)


@st.composite
def arguments(draw):
    """Log-probs, those of a policy nearby, advantages and mask."""
    mask = draw(masks())
    shape = tuple(mask.shape)
    log_probs = draw(tensors(shape, -6.0, -0.01))
    return [log_probs, moved(log_probs, 0.3 * draw(tensors(shape))), draw(tensors(shape)), mask]


def loss_and_gradient(objective, log_probs, *others):
    log_probs = log_probs.clone().requires_grad_()
    loss = objective(log_probs, *others)
    loss.sum().backward()
    return loss.detach(), log_probs.grad


@given(any_objective, arguments())
def test_at_ratio_one_the_gradient_is_the_policy_gradient(objective, drawn):
    log_probs, _, advantages, mask = drawn
    _, gradient = loss_and_gradient(objective, log_probs, log_probs, advantages, mask)
    torch.testing.assert_close(gradient, torch.where(mask, -advantages, 0.0), rtol=1e-12, atol=0)


@given(any_objective, st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]), arguments())
def test_masked_positions_are_never_read_and_get_no_gradient(objective, garbage, drawn):
    *tensors, mask = drawn
    loss, gradient = loss_and_gradient(objective, *tensors, mask)
    dirty = [torch.where(mask, x, torch.full_like(x, garbage)) for x in tensors]
    dirty_loss, dirty_gradient = loss_and_gradient(objective, *dirty, mask)
    assert torch.equal(loss, dirty_loss)
    assert torch.equal(gradient, dirty_gradient)
    assert (loss[~mask] == 0).all()
    assert (gradient[~mask] == 0).all()


@given(any_objective, arguments(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_losses_follow_permuted_rows_and_padding(objective, drawn, random, columns):
    loss = objective(*drawn)
    order = torch.tensor(random.sample(range(len(loss)), len(loss)))
    assert torch.equal(objective(*(x[order] for x in drawn)), loss[order])
    padded = objective(*(torch.nn.functional.pad(x, (0, columns)) for x in drawn))
    assert torch.equal(padded, torch.nn.functional.pad(loss, (0, columns)))


@every_objective
@pytest.mark.parametrize("shape", [(2, 3), (1, 0), (0, 4)])
def test_nothing_to_train_gives_zero_loss_and_zero_gradient(objective, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    loss, gradient = loss_and_gradient(objective, *(torch.full(shape, torch.nan) for _ in range(3)), mask)
    assert torch.equal(loss, torch.zeros(shape))
    assert torch.equal(gradient, torch.zeros(shape))


@given(any_following, arguments())
def test_zero_advantage_gives_zero_gradient(objective, drawn):
    log_probs, old, advantages, mask = drawn
    loss, gradient = loss_and_gradient(objective, log_probs, old, torch.zeros_like(advantages), mask)
    assert (loss == 0).all()
    assert (gradient == 0).all()


@given(any_objective, arguments())
def test_gradient_reaches_the_log_probs_only_and_nothing_is_mutated(objective, drawn):
    *tensors, mask = drawn
    before = [x.clone() for x in tensors]
    tensors[0] = tensors[0].clone().requires_grad_()
    objective(*tensors, mask).sum().backward()
    assert tensors[0].grad is not None
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))


@given(any_following, arguments())
def test_a_gradient_never_pushes_against_the_advantage(objective, drawn):
    log_probs, old, advantages, mask = drawn
    _, gradient = loss_and_gradient(objective, log_probs, old, advantages, mask)
    assert (gradient * advantages <= 0).all()


@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_have_the_dtype_of_the_log_probs_and_ratios_more_digits(objective, dtype):
    generator = torch.Generator().manual_seed(0)
    log_probs = -torch.rand(2, 4, generator=generator).to(dtype)
    old = log_probs.float() + 0.01
    advantages, mask = torch.randn(2, 4, generator=generator), torch.ones(2, 4, dtype=torch.bool)
    loss = objective(log_probs, old, advantages, mask)
    assert loss.dtype == dtype
    exact = objective(log_probs.double(), old.double(), advantages.double(), mask)
    assert torch.equal(loss, exact.to(dtype)) or dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=4e-3 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["old_log_probs", "advantages", "log_probs"])
@pytest.mark.parametrize("function", [reinforce, importance_weighted, ppo_clip])
def test_a_tensor_of_another_shape_is_refused(unchecked_shapes, function, name):
    names = ["log_probs", "advantages"] if function is reinforce else ["log_probs", "old_log_probs", "advantages"]
    given_tensors = {key: torch.zeros(2, 3) for key in names}
    given_tensors[name if name in names else "advantages"] = torch.zeros(2, 1)
    with pytest.raises(UsageError, match=rf"{function.__name__}: \w+ has shape \(2, 1\), response_mask \(2, 3\)"):
        function(**given_tensors, response_mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(UsageError, match=f"{function.__name__}: response_mask must be a bool tensor"):
        function(**dict.fromkeys(names, torch.zeros(2, 3)), response_mask=torch.ones(2, 3))


@given(any_component, rollouts())
def test_a_component_is_its_function_on_the_fields_of_the_batch(name, batch):
    log_probs = batch.ref_log_probs
    anchor = batch.rollout_log_probs if name in ROLLOUT_ANCHORED else batch.old_log_probs
    expected = OBJECTIVES[name](log_probs, anchor, batch.advantages, batch.response_mask)
    assert torch.equal(COMPONENTS[name](PolicyOutput(log_probs), batch), expected)


@every_component
def test_a_component_is_a_value(name):
    component = COMPONENTS[name]
    assert eval(repr(component)) == component
    assert pickle.loads(pickle.dumps(component)) == component
    assert hash(component) == hash(pickle.loads(pickle.dumps(component)))
    assert component.paper
    assert component.level == "token"
    with pytest.raises(AttributeError):
        component.clip_low = 0.5


@given(any_component, rollouts())
def test_missing_advantages_are_named_with_their_source(name, batch):
    component = COMPONENTS[name]
    with pytest.raises(UsageError, match=f"{type(component).__name__} needs advantages.*advantage estimator"):
        component(PolicyOutput(batch.rollout_log_probs), batch.replace(advantages=None))


@given(arguments(), BOUNDS, st.sampled_from([None, 1.2, 3.0]))
def test_objectives_equal_the_reference_loops(drawn, bounds, dual_clip):
    log_probs, old, advantages, mask = drawn
    options = {"clip_low": bounds[0], "clip_high": bounds[1], "dual_clip": dual_clip}
    pairs = [
        (reinforce(log_probs, advantages, mask), loop_reinforce(log_probs, advantages, mask)),
        (importance_weighted(log_probs, old, advantages, mask), loop_importance_weighted(*drawn)),
        (ppo_clip(log_probs, old, advantages, mask, **options), loop_ppo_clip(*drawn, **options)),
    ]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


@given(arguments())
def test_wide_bounds_are_no_bounds(drawn):
    wide = ppo_clip(*drawn, clip_low=1.0, clip_high=1e9, dual_clip=1e9)
    assert torch.equal(wide, importance_weighted(*drawn))
    endless = ppo_clip(*drawn, clip_high=float("inf"), dual_clip=float("inf"))
    assert torch.equal(endless, ppo_clip(*drawn, clip_high=1e9))


@given(arguments())
def test_a_token_that_would_move_back_always_has_gradient(drawn):
    log_probs, old, advantages, mask = drawn
    for objective in (ppo_clip, OBJECTIVES["ppo_clip_dual"]):
        _, gradient = loss_and_gradient(objective, log_probs, old, advantages.abs() + 0.1, mask)
        assert (gradient[mask & (log_probs < old)] < 0).all()
    _, gradient = loss_and_gradient(ppo_clip, log_probs, old, -advantages.abs() - 0.1, mask)
    assert (gradient[mask & (log_probs > old)] > 0).all()


@pytest.mark.parametrize("objective", [importance_weighted, ppo_clip], ids=lambda f: f.__name__)
@pytest.mark.parametrize("log_ratio", [19.0, 21.0, 80.0, 1e4])
def test_a_bad_token_that_ran_away_keeps_a_finite_gradient(objective, log_ratio):
    log_probs, old = torch.tensor([[log_ratio - 2e4]]), torch.tensor([[-2e4]])
    loss, gradient = loss_and_gradient(objective, log_probs, old, torch.tensor([[-1.0]]), torch.tensor([[True]]))
    torch.testing.assert_close(gradient, torch.tensor([[min(log_ratio, 20.0)]]).exp(), rtol=1e-4, atol=0)
    assert loss.isfinite().all()


# Their values say nothing.
SURROGATES = {"cispo", "dppo_tv", "dppo_kl", "min_prefix_ratio", "topr", "topr_token", "sols", "gspo_token"}
SURROGATES |= {"masked_importance_weighted"}


@pytest.mark.parametrize("objective", [f for name, f in OBJECTIVES.items() if name not in SURROGATES])
def test_autograd_agrees_with_finite_differences(objective):
    generator = torch.Generator().manual_seed(1)
    log_probs, old = random_log_probs(2, 3, 5, generator=generator)
    log_probs.requires_grad_()
    advantages = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda x: objective(x, old, advantages, mask), log_probs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_low": -0.1}, r"clip_low must be in \[0, 1\], got -0.1"),
        ({"clip_low": 1.1}, r"clip_low must be in \[0, 1\], got 1.1"),
        ({"clip_high": -0.1}, r"clip_high must be in \[0, inf\], got -0.1"),
        ({"clip_high": float("nan")}, "clip_high must be in"),
        ({"dual_clip": 1.0}, r"dual_clip must be in \(1, inf\], got 1.0"),
    ],
)
def test_bounds_outside_their_range_are_refused(options, message):
    with pytest.raises(UsageError, match=f"PPOClip: {message}"):
        PPOClip(**options)
    with pytest.raises(UsageError, match=f"ppo_clip: {message}"):
        ppo_clip(*(torch.zeros(1, 1) for _ in range(3)), torch.ones(1, 1, dtype=torch.bool), **options)
