import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import Whiten, whiten
from rl4llm.checks import UsageError
from rl4llm.testing.reference import estimators as reference
from rl4llm.testing.strategies import group_ids, masks, rollouts, tensors

LEVELS = ["token", "response", "group"]


@st.composite
def batches(draw):
    mask = draw(masks(max_batch=8, max_time=5))
    return draw(tensors(tuple(mask.shape))), mask, draw(group_ids(len(mask)))


def at(level, x, mask, ids, **options):
    return whiten(x, mask, level=level, group_ids=ids if level == "group" else None, **options)


def samples(level, x, mask, ids):
    """The numbers whose mean and variance become 0 and 1: one list a level or group."""
    if level == "token":
        return [x[mask]]
    rows = [row for row in range(len(x)) if mask[row].any()]
    groups = {int(ids[row]) if level == "group" else 0 for row in rows}
    members = [[row for row in rows if level == "response" or int(ids[row]) == group] for group in groups]
    return [torch.stack([x[row][mask[row]].mean() for row in member]) for member in members]


def varies(sample):
    """Whether a sample has a spread that is not rounding."""
    return len(sample) > 1 and float(sample.max() - sample.min()) > 1e-6


def close(x, y, atol=1e-6):
    torch.testing.assert_close(x, y, rtol=0, atol=atol)


@given(x=batches(), level=st.sampled_from(LEVELS), unbiased=st.booleans())
def test_equals_one_number_at_a_time(x, level, unbiased):
    data, mask, ids = x
    if all(varies(sample) or len(sample.unique()) < 2 for sample in samples(level, *x)):
        close(at(level, *x, unbiased=unbiased), reference.whiten(data, mask, level, ids, unbiased))


@given(x=batches(), level=st.sampled_from(LEVELS), unbiased=st.booleans())
def test_mean_zero_and_variance_one_at_the_declared_level(x, level, unbiased):
    _, mask, ids = x
    whitened = at(level, *x, unbiased=unbiased)
    for before, after in zip(samples(level, *x), samples(level, whitened, mask, ids), strict=True):
        if varies(before):
            close(after.mean(), torch.zeros(()).double())
            close(after.var(unbiased=unbiased), torch.ones(()).double())


@given(
    x=batches(), level=st.sampled_from(LEVELS), scale=st.sampled_from([0.5, 3.0]), shift=st.sampled_from([-5.0, 9.0])
)
def test_positive_scale_and_shift_change_nothing(x, level, scale, shift):
    data, mask, ids = x
    if all(varies(sample) for sample in samples(level, *x)):
        close(at(level, scale * data + shift, mask, ids), at(level, *x))
        close(at(level, -data, mask, ids), -at(level, *x))


@given(x=batches(), level=st.sampled_from(LEVELS))
def test_whitening_twice_is_whitening_once(x, level):
    _, mask, ids = x
    if all(varies(sample) for sample in samples(level, *x)):
        once = at(level, *x)
        close(at(level, once, mask, ids), once)


@given(x=batches(), level=st.sampled_from(LEVELS), unbiased=st.booleans(), value=st.sampled_from([0.1, -1e4, 3.3]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_data_gives_exactly_zero_whatever_the_lengths(x, level, unbiased, value, dtype):
    _, mask, ids = x
    constant = torch.full(mask.shape, value, dtype=dtype)
    assert (at(level, constant, mask, ids, unbiased=unbiased) == 0).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_one_value_gives_exactly_zero(level, unbiased):
    mask = torch.tensor([[False, True], [False, False]])
    whitened = at(level, torch.full((2, 2), 7.7), mask, torch.tensor([0, 0]), unbiased=unbiased)
    assert whitened.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_levels_by_hand():
    # Responses (1, 3) and (5): tokens have mean 3 and sample variance 4; response means 2 and 5 have mean 3.5 and
    # population std 1.5; in groups of their own each is alone.
    x, ids = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([0, 1])
    mask = torch.tensor([[True, True], [True, False]])
    close(at("token", x, mask, ids), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    expected = torch.tensor([[-2.5 / 1.5, -0.5 / 1.5], [1.0, 0.0]])
    close(at("response", x, mask, ids, unbiased=False), expected)
    close(at("group", x, mask, torch.tensor([4, 4]), unbiased=False), expected)
    assert (at("group", x, mask, ids) == 0).all()


def test_a_longer_response_weighs_more_over_tokens_only():
    x = torch.tensor([[1.0], [0.0], [0.0]]).expand(3, 6)
    ids = torch.tensor([0, 0, 0])
    short, long = torch.ones(3, 6, dtype=torch.bool), torch.ones(3, 6, dtype=torch.bool)
    short[0, 1:] = False
    for level in LEVELS:
        first_is_longer = at(level, x, long, ids)[0, 0]
        first_is_shorter = at(level, x, short, ids)[0, 0]
        assert (abs(first_is_longer - first_is_shorter) > 0.1) == (level == "token")


def test_each_group_is_whitened_alone():
    x = torch.tensor([[0.0], [1.0], [10.0], [30.0]])
    mask = torch.ones(4, 1, dtype=torch.bool)
    whitened = whiten(x, mask, level="group", group_ids=torch.tensor([8, 8, 2, 2]), unbiased=False)
    close(whitened, torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]))


@given(x=batches(), level=st.sampled_from(LEVELS))
def test_without_shift_only_the_spread_changes(x, level):
    _, mask, ids = x
    scaled = at(level, *x, shift_mean=False)
    assert (scaled[~mask] == 0).all()
    for before, after in zip(samples(level, *x), samples(level, scaled, mask, ids), strict=True):
        close(after.mean() if len(after) else before.sum(), before.mean() if len(before) else before.sum())
        if varies(before):
            close(after.std(), torch.ones(()).double())


@pytest.mark.parametrize("level", LEVELS)
def test_a_large_offset_keeps_float32_digits(level):
    offsets = torch.tensor([[0.0], [0.5], [3.0]])  # their mean plus 1e4 is no float32
    mask, ids = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(at(level, offsets + 1e4, mask, ids), at(level, offsets, mask, ids), rtol=1e-6, atol=1e-6)


@given(data=st.data(), x=batches(), level=st.sampled_from(LEVELS))
def test_rows_may_be_permuted_and_groups_renumbered(data, x, level):
    rows = torch.tensor(data.draw(st.permutations(range(len(x[0])))))
    if all(varies(sample) for sample in samples(level, *x)):
        permuted = at(level, x[0][rows], x[1][rows], 3 * x[2][rows] - 1)
        close(permuted, at(level, *x)[rows])


def test_a_nan_among_the_counted_values_is_not_hidden():
    x = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    assert whiten(x, torch.ones(2, 2, dtype=torch.bool)).isnan().any()


def test_wrong_levels_and_missing_groups_are_refused(unchecked_shapes):
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(UsageError, match="whiten: level must be one of 'token', 'response', 'group', got 'batch'"):
        whiten(x, mask, level="batch")
    with pytest.raises(UsageError, match="Whiten: level must be one of"):
        Whiten(level="batch")
    with pytest.raises(UsageError, match="whiten: level 'group' needs group_ids"):
        whiten(x, mask, level="group")
    with pytest.raises(UsageError, match=r"group_ids has shape \(3,\), responses \(2,\); pass one id per response"):
        whiten(x, mask, level="group", group_ids=torch.zeros(3, dtype=torch.long))
    with pytest.raises(UsageError, match="whiten: group_ids must hold integers"):
        whiten(x, mask, level="group", group_ids=torch.zeros(2))


@settings(max_examples=settings().max_examples // 4)  # a whole batch is slow to draw
@given(batch=rollouts(), level=st.sampled_from(LEVELS), unbiased=st.booleans())
def test_the_component_leaves_out_unscored_responses(batch, level, unbiased):
    whitened = Whiten(level=level, unbiased=unbiased)(batch.advantages, batch)
    expected = at(level, batch.advantages, batch.scored_mask, batch.group_ids, unbiased=unbiased)
    assert torch.equal(whitened, expected)
    assert (whitened[batch.scores.isnan()] == 0).all()


def test_means_that_are_equal_up_to_rounding_are_equal():
    row = [0.7, 2.7, 2.8, -1.7, 0.2, -2.2, -1.2]
    x = torch.tensor([row, [row[i] for i in (6, 5, 3, 2, 4, 0, 1)]], dtype=torch.float64)  # the same numbers, reordered
    mask = torch.ones(2, 7, dtype=torch.bool)
    for level in ("response", "group"):
        assert not whiten(x, mask, level=level, group_ids=torch.zeros(2, dtype=torch.long)).any()
    apart = whiten(x + torch.tensor([[0.0], [1e-9]], dtype=torch.float64), mask, level="response")
    torch.testing.assert_close(apart.mean(-1), torch.tensor([-0.5, 0.5]).double().mul(2**0.5), rtol=1e-6, atol=0)
