"""Values from completions: Monte Carlo continuations of every step, and the greedy response."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import SegmentMonteCarlo
from rl4llm.checks import UsageError
from rl4llm.critics import GreedyValue, MonteCarloValues
from rl4llm.segments import FixedTokens, segment_starts
from rl4llm.testing.strategies import rollouts
from tests.critics.helpers import NAN, World, batch_of, doubles

FEWER = settings(max_examples=settings.default.max_examples // 3)


def by_prefix(prompt, prefix, sample):
    """A score that any other token in the prefix would change."""
    return (sum((place + 2) * token for place, token in enumerate((*prompt, *prefix))) % 17 + sample) / 20


def mean_by_prefix(prompt, prefix, samples):
    return sum(by_prefix(prompt, prefix, k) for k in range(samples)) / samples


def monte_carlo(**options):
    return MonteCarloValues(**{"samples": 2, "segmenter": FixedTokens(tokens=2), **options}).build("policy")


def test_every_token_gets_the_value_at_the_beginning_of_its_step():
    ids, mask = [[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]], [[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]
    batch, world = batch_of([10, 11], [1.0, 0.0], ids=ids, mask=mask), World(score=by_prefix)
    valued = monte_carlo().values(batch, world.context)
    assert valued.segment_ids.tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, 0, 0]]
    start = [mean_by_prefix((10,), prefix, 2) for prefix in ((), (1, 2), (1, 2, 3, 4))]
    other = mean_by_prefix((11,), (6,), 2)
    expected = [[start[0], start[0], start[1], start[1], start[2]], [0, other, other, 0, 0]]
    torch.testing.assert_close(valued.values, doubles(*expected), rtol=0, atol=1e-6)
    ((states, samples, greedy),) = world.asked
    assert (samples, greedy) == (2, False)
    assert states == [((10,), ()), ((10,), (1, 2)), ((10,), (1, 2, 3, 4)), ((11,), (6,))]


@FEWER
@given(rollouts(), st.sampled_from([None, 0, 1, 2]), st.integers(1, 3))
def test_values_are_those_of_a_loop_over_the_states(batch, cap, tokens):
    world = World(score=by_prefix)
    valued = monte_carlo(max_segments=cap, segmenter=FixedTokens(tokens=tokens)).values(batch, world.context)
    expected = torch.zeros_like(batch.values)
    for row, mask in enumerate(batch.response_mask.tolist()):
        value, prompt = 0.0, tuple(batch.prompt_ids[row, batch.prompt_mask[row]].tolist())
        for place, column in enumerate([t for t, trained in enumerate(mask) if trained]):
            if place % tokens == 0:
                prefix = tuple(batch.response_ids[row, :column].tolist())
                value = mean_by_prefix(prompt, prefix, 2)
                if cap is not None and place // tokens > cap:
                    value = batch.outcomes[row].nan_to_num().item()
            expected[row, column] = value
    torch.testing.assert_close(valued.values, expected, rtol=1e-6, atol=1e-6)


@FEWER
@given(rollouts(), st.sampled_from([None, 0, 1]))
def test_no_state_is_asked_for_twice(batch, cap):
    few = batch.replace(response_ids=batch.response_ids % 2)
    world = World(score=by_prefix)
    valued = monte_carlo(max_segments=cap).values(few, world.context)
    states = [state for states, _, _ in world.asked for state in states]
    assert len(states) == len(set(states))
    assert len(world.asked) == int(batch.response_mask.any())
    starts = segment_starts(valued.segment_ids, batch.response_mask)
    asked = starts if cap is None else starts & (valued.segment_ids <= cap)
    assert {prefix for _, prefix in states} == {
        tuple(few.response_ids[row, :column].tolist()) for row, column in asked.nonzero().tolist()
    }


def test_responses_to_one_prompt_share_their_first_state_and_those_to_others_do_not():
    batch, world = batch_of([10, 10, 11, 10], [1.0, 0.0, 1.0, 0.0], ids=[[1], [2], [1], [3]]), World()
    monte_carlo().values(batch, world.context)
    assert world.asked[0][0] == [((10,), ()), ((11,), ())]


def test_completions_that_could_not_be_scored_are_left_out():
    batch = batch_of([10, 11], [1.0, 1.0])
    world = World(score=lambda prompt, prefix, k: NAN if prompt == (11,) or k == 0 else float(k))
    values = monte_carlo(samples=3).values(batch, world.context).values
    assert values.tolist() == [[1.5] * 3, [0.0] * 3]


@FEWER
@given(rollouts(), st.sampled_from([0, 1, 2]))
def test_beyond_the_cap_advantages_are_zero_and_the_sum_is_kept(batch, cap):
    batch = batch.replace(rewards=batch.rewards + 0.25)  # shaping counts as the estimator counts it
    valued = monte_carlo(max_segments=cap).values(batch, World(score=by_prefix).context)
    advantages = SegmentMonteCarlo()(valued).advantages
    assert not advantages[valued.segment_ids > cap].any()
    starts = segment_starts(valued.segment_ids, batch.scored_mask)
    first = starts & (valued.segment_ids == 0)
    expected = (batch.outcomes[:, None] - valued.values)[first]
    torch.testing.assert_close((advantages * starts).sum(-1)[starts.any(-1)], expected, rtol=1e-6, atol=1e-6)


@FEWER
@given(rollouts())
def test_a_policy_that_always_ends_alike_has_no_advantages(batch):
    right = batch.replace(scores=torch.ones_like(batch.scores))
    right = right.replace(rewards=torch.zeros_like(batch.rewards))  # shaping that takes the score back
    valued = monte_carlo().values(right, World(score=lambda *state: 0.0).context)
    assert SegmentMonteCarlo()(valued).advantages.abs().max() < 1e-9


def test_steps_follow_the_text():
    batch = batch_of([1], [1.0], ids=[[1, 2, 3, 4]])
    valued = MonteCarloValues().build("policy").values(batch, World(pieces=[["a", "\n", "b", "\nc"]]).context)
    assert valued.segment_ids.tolist() == [[0, 1, 1, 2]]


def test_nothing_is_asked_for_where_nothing_is_trained():
    batch, world = batch_of([1, 2], [1.0, NAN], mask=[[0, 0, 0], [0, 0, 0]]), World()
    for source in (monte_carlo(), GreedyValue().build("policy")):
        assert not source.values(batch, world.context).values.any()
        assert not source.learners
        source.learn(batch, world.context)
    assert not world.asked


def test_the_greedy_response_is_drawn_once_a_prompt():
    uids, mask = [7, 5, 7, 5, 8, 9], [[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]
    scores = {7: 0.25, 5: NAN, 9: 1.0}
    batch, world = batch_of(uids, [1.0] * 6, mask=mask), World(score=lambda prompt, prefix, k: scores[prompt[0]])
    values = GreedyValue().build("policy").values(batch, world.context).values
    assert torch.equal(values, doubles(0.25, 0, 0.25, 0, 0, 1)[:, None] * batch.response_mask)
    assert world.asked == [([((7,), ()), ((5,), ()), ((9,), ())], 1, True)]


@FEWER
@given(rollouts(), st.data())
def test_rows_permute(batch, data):
    order = torch.tensor(data.draw(st.permutations(range(len(batch)))))
    for source in (monte_carlo(), monte_carlo(max_segments=1), GreedyValue().build("policy")):
        moved, plain = (source.values(b, World(score=by_prefix).context) for b in (batch.select(order), batch))
        torch.testing.assert_close(moved.values, plain.values[order], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"samples": 0}, {"max_segments": -1}, {"samples": 1.5}])
def test_options_outside_their_domain_are_one_line(unchecked_shapes, options):
    with pytest.raises(UsageError, match="MonteCarloValues: "):
        MonteCarloValues(**options)


def test_more_samples_are_asked_for_by_the_spec():
    world = World()
    for samples in (1, 9):
        MonteCarloValues(samples=samples).build("policy").values(batch_of([1], [0.0]), world.context)
    assert [samples for _, samples, _ in world.asked] == [1, 9]
    assert len(list(itertools.chain.from_iterable(states for states, _, _ in world.asked))) == 2
