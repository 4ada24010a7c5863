"""GSPO and GMPO: the weight of a response is the geometric mean of its tokens' ratios."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.batch import PolicyOutput
from rl4llm.checks import UsageError
from rl4llm.errors import GraphError
from rl4llm.objectives import GMPO, GSPO, GSPOToken, gmpo, gspo, gspo_token, sequence_mean
from rl4llm.testing.reference.objectives import loop_gmpo, loop_gspo, loop_gspo_token
from rl4llm.testing.strategies import masks, rollouts, tensors
from tests.log_probs import moved, random_log_probs

BOUNDS = st.sampled_from([(3e-4, 4e-4), (0.1, 0.2), (1.0, math.inf), (0.0, 0.0)])
CLIPS = st.sampled_from([0.0, 0.1, 0.4, math.inf])
WHOLE = {
    "gspo": lambda *t: gspo(*t, clip_low=0.1, clip_high=0.2),
    "gmpo": lambda *t: gmpo(*t, clip=0.2),
}
ALL = {**WHOLE, "gspo_token": lambda *t: gspo_token(*t, clip_low=0.1, clip_high=0.2)}
any_whole, any_of_them = st.sampled_from(list(WHOLE.values())), st.sampled_from(list(ALL.values()))


@st.composite
def sequences(draw):
    """Log-probs, those of a policy nearby, advantages and mask."""
    mask = draw(masks())
    old = draw(tensors(tuple(mask.shape), -4.0, -0.1))
    return [moved(old, draw(tensors(tuple(mask.shape), -1.0, 1.0))), old, draw(tensors(tuple(mask.shape))), mask]


def coefficient(objective, new, *others):
    """−∂ loss / ∂ log π of each token."""
    new = new.clone().requires_grad_()
    objective(new, *others).sum().backward()
    return -new.grad


def trained(row, *tensors):
    """Columns of the trained tokens of a row, and their numbers."""
    mask = tensors[-1][row]
    columns = mask.nonzero()[:, 0].tolist()
    return columns, [[x[row, t].item() for t in columns] for x in tensors[:-1]]


@given(sequences(), BOUNDS)
def test_the_gradient_of_gspo_is_the_closed_form(drawn, bounds):
    low, high = bounds
    got = coefficient(lambda *t: gspo(*t, clip_low=low, clip_high=high), *drawn)
    expected = torch.zeros_like(got)
    for row in range(len(got)):
        columns, (new, old, a) = trained(row, *drawn)
        if columns:
            n = len(columns)
            s, advantage = math.exp((sum(new) - sum(old)) / n), sum(a) / n
            if min(abs(s - 1 - high), abs(s - 1 + low)) < 1e-12:
                return  # on a kink either slope will do
            clipped = (advantage > 0 and s > 1 + high) or (advantage < 0 and s < 1 - low)
            expected[row, columns] = 0.0 if clipped else advantage * s / n
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(sequences(), BOUNDS)
def test_the_gradient_of_gspo_by_tokens_is_the_closed_form(drawn, bounds):
    low, high = bounds
    got = coefficient(lambda *t: gspo_token(*t, clip_low=low, clip_high=high), *drawn)
    expected = torch.zeros_like(got)
    for row in range(len(got)):
        columns, (new, old, advantages) = trained(row, *drawn)
        s = math.exp((sum(new) - sum(old)) / max(len(columns), 1))
        if min(abs(s - 1 - high), abs(s - 1 + low)) < 1e-12:
            return
        for t, a in zip(columns, advantages, strict=True):
            clipped = (a > 0 and s > 1 + high) or (a < 0 and s < 1 - low)
            expected[row, t] = 0.0 if clipped else a * s
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(sequences(), CLIPS)
def test_the_gradient_of_gmpo_is_the_closed_form(drawn, clip):
    got = coefficient(lambda *t: gmpo(*t, clip=clip), *drawn)
    expected = torch.zeros_like(got)
    for row in range(len(got)):
        columns, (new, old, a) = trained(row, *drawn)
        if columns:
            n = len(columns)
            d, advantage = [x - y for x, y in zip(new, old, strict=True)], sum(a) / n
            bounded = [min(x, clip) if advantage >= 0 else max(x, -clip) for x in d]
            weight = math.exp(sum(bounded) / n)
            for t, x in zip(columns, d, strict=True):
                past = (advantage > 0 and x > clip) or (advantage < 0 and x < -clip)
                expected[row, t] = 0.0 if past else advantage * weight / n
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(sequences(), BOUNDS, CLIPS)
def test_objectives_equal_the_reference_loops(drawn, bounds, clip):
    widths = dict(zip(("clip_low", "clip_high"), bounds, strict=True))
    pairs = [
        (gspo(*drawn, **widths), loop_gspo(*drawn, **widths)),
        (gspo_token(*drawn, **widths), loop_gspo_token(*drawn, **widths)),
        (gmpo(*drawn, clip=clip), loop_gmpo(*drawn, clip=clip)),
    ]
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@given(sequences(), BOUNDS)
def test_gspo_is_the_mean_over_tokens_of_gspo_by_tokens(drawn, bounds):
    new, old, advantages, mask = drawn
    constant = advantages[:, :1].expand(mask.shape)
    widths = dict(zip(("clip_low", "clip_high"), bounds, strict=True))
    arguments = new, old, constant, mask
    whole = coefficient(lambda *t: sequence_mean(gspo(*t, **widths), t[-1].any(-1)), *arguments)
    tokens = coefficient(lambda *t: sequence_mean(gspo_token(*t, **widths), t[-1]), *arguments)
    torch.testing.assert_close(whole, tokens, rtol=1e-10, atol=1e-12)
    values = [
        sequence_mean(gspo(*arguments, **widths), mask.any(-1)),
        sequence_mean(gspo_token(*arguments, **widths), mask),
    ]
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-12)


@given(sequences())
def test_without_bounds_gspo_and_gmpo_are_one(drawn):
    wide = lambda *t: gspo(*t, clip_low=1.0, clip_high=math.inf)  # noqa: E731
    endless = lambda *t: gmpo(*t, clip=math.inf)  # noqa: E731
    torch.testing.assert_close(wide(*drawn), endless(*drawn), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(coefficient(wide, *drawn), coefficient(endless, *drawn), rtol=1e-12, atol=1e-14)


@given(any_whole, sequences())
def test_at_ratio_one_every_token_has_its_share_of_the_policy_gradient(objective, drawn):
    _, old, advantages, mask = drawn
    got = coefficient(objective, old, old, advantages, mask)
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    means = torch.where(mask, advantages, 0.0).sum(-1, keepdim=True) / count
    torch.testing.assert_close(got, torch.where(mask, means / count, 0.0), rtol=1e-12, atol=1e-14)


@given(any_of_them, st.sampled_from([torch.nan, torch.inf, -torch.inf, 1e30]), sequences())
def test_masked_positions_are_never_read_and_get_no_gradient(objective, garbage, drawn):
    *inputs, mask = drawn
    dirty = [x.masked_fill(~mask, garbage) for x in inputs]
    assert torch.equal(objective(*inputs, mask), objective(*dirty, mask))
    assert torch.equal(coefficient(objective, *inputs, mask), coefficient(objective, *dirty, mask))


@given(any_of_them, sequences())
def test_gradient_reaches_the_log_probs_and_the_constants_have_no_graph(objective, drawn):
    *inputs, mask = drawn
    inputs[0] = inputs[0].clone().requires_grad_()
    objective(*inputs, mask).sum().backward()
    assert inputs[0].grad is not None
    for constant in (1, 2):
        traced = [x.clone().requires_grad_() if place == constant else x for place, x in enumerate(inputs)]
        with pytest.raises(GraphError):
            objective(*traced, mask)


@given(any_of_them, sequences())
def test_a_gradient_never_pushes_against_the_advantage(objective, drawn):
    new, old, advantages, mask = drawn
    constant = advantages[:, :1].expand(mask.shape)
    assert (coefficient(objective, new, old, constant, mask) * constant >= 0).all()


@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
@pytest.mark.parametrize("shape", [(2, 3), (1, 0), (0, 4)])
def test_nothing_to_train_gives_zero_loss_and_zero_gradient(objective, shape):
    mask = torch.zeros(shape, dtype=torch.bool)
    new, *others = (torch.full(shape, torch.nan) for _ in range(3))
    assert not objective(new, *others, mask).any()
    assert not coefficient(objective, new, *others, mask).any()


@pytest.mark.parametrize("objective", WHOLE.values(), ids=WHOLE)
def test_autograd_agrees_with_finite_differences(objective):
    generator = torch.Generator().manual_seed(1)
    new, old = random_log_probs(2, 3, 5, generator=generator)
    new.requires_grad_()
    advantages = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.7
    assert torch.autograd.gradcheck(lambda x: objective(x, old, advantages, mask), new)


@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
def test_a_bad_response_that_ran_away_keeps_a_finite_gradient(objective):
    got = coefficient(
        objective, torch.zeros(1, 2), torch.full((1, 2), -400.0), -torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    )
    assert got.isfinite().all()
    assert (got < -1e8).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
def test_losses_have_the_dtype_of_the_log_probs_and_ratios_more_digits(objective, dtype):
    generator = torch.Generator().manual_seed(0)
    new = -torch.rand(2, 64, generator=generator).to(dtype)
    old, advantages = new.float() - 0.01, torch.randn(2, 64, generator=generator)
    mask = torch.ones(2, 64, dtype=torch.bool)
    loss = objective(new, old, advantages, mask)
    assert loss.dtype == dtype
    exact = objective(new.double(), old.double(), advantages.double(), mask)
    torch.testing.assert_close(loss.double(), exact, rtol=4e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_known_numbers():
    # log-ratios 1, −0.5 and a masked one: s = e^0.25; bounded at 0.4 they sum to −0.1: ϱ = e^−0.05.
    new = torch.tensor([[1.0, -0.5, 9.0]], dtype=torch.float64) - 2
    old, mask = torch.full((1, 3), -2.0, dtype=torch.float64), torch.tensor([[True, True, False]])
    advantages = torch.tensor([[3.0, 1.0, 99.0]], dtype=torch.float64)
    assert gspo(new, old, advantages, mask, clip_high=1.0).item() == pytest.approx(-2 * math.exp(0.25))
    assert gspo(new, old, advantages, mask).item() == pytest.approx(-2 * 1.0004)
    assert gspo(new, old, -advantages, mask).item() == pytest.approx(2 * math.exp(0.25))
    assert gmpo(new, old, advantages, mask).item() == pytest.approx(-2 * math.exp(-0.05))
    assert gmpo(new, old, -advantages, mask).item() == pytest.approx(2 * math.exp(0.3))


@given(rollouts())
def test_a_component_is_its_function_on_the_fields_of_the_batch(batch):
    new, fields = batch.ref_log_probs, (batch.old_log_probs, batch.advantages, batch.response_mask)
    pairs = [
        (GSPO(), gspo(new, *fields)),
        (GSPO(clip_low=0.1, clip_high=0.3), gspo(new, *fields, clip_low=0.1, clip_high=0.3)),
        (GSPOToken(clip_low=0.1, clip_high=0.3), gspo_token(new, *fields, clip_low=0.1, clip_high=0.3)),
        (GMPO(clip=0.1), gmpo(new, *fields, clip=0.1)),
    ]
    for component, expected in pairs:
        assert torch.equal(component(PolicyOutput(new), batch), expected)
        assert eval(repr(component)) == pickle.loads(pickle.dumps(component)) == component
        with pytest.raises(UsageError, match=f"{type(component).__name__} needs advantages.*advantage estimator"):
            component(PolicyOutput(new), batch.replace(advantages=None))


def test_levels_and_defaults():
    assert [kind().level for kind in (GSPO, GMPO, GSPOToken)] == ["response", "response", "token"]
    assert (GSPO().clip_low, GSPO().clip_high, GMPO().clip) == (3e-4, 4e-4, 0.4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GSPO(clip_low=1.5), r"GSPO: clip_low must be in \[0, 1\], got 1.5"),
        (lambda: GSPOToken(clip_high=-1.0), "GSPOToken: clip_high must be in"),
        (lambda: GMPO(clip=-0.1), r"GMPO: clip must be in \[0, inf\], got -0.1"),
        (lambda: gmpo(*[torch.zeros(1, 1)] * 3, torch.ones(1, 1, dtype=torch.bool), clip=-1.0), "gmpo: clip must be"),
        (lambda: gspo(*[torch.zeros(1, 1)] * 3, torch.ones(1, 1, dtype=torch.bool), clip_low=-1.0), "gspo: clip_low"),
        (lambda: gspo(*[torch.zeros(1, 2)] * 2, torch.zeros(1, 1), torch.ones(1, 2, dtype=torch.bool)), "gspo: adv"),
    ],
)
def test_options_and_shapes_outside_their_domain_are_one_line(unchecked_shapes, build, message):
    with pytest.raises(UsageError, match=message):
        build()
