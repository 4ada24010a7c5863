"""Which prompts come next."""

from collections import Counter

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Filtered, Prioritized, PromptData, Steps

UIDS = torch.arange(12) * 7


def steps(sampler, weigh, size=4, seed=0):
    return Steps(sampler, UIDS, size, weigh, torch.Generator().manual_seed(seed))


def test_filtered_visits_every_worthy_prompt_once_an_epoch():
    source = steps(Filtered(), lambda uids: (uids % 2 == 0).float(), size=2)
    visited = [index for step in source for index in step]
    assert sorted(visited) == [0, 2, 4, 6, 8, 10]
    assert visited != sorted(visited)
    assert [index for step in source for index in step] != visited  # another order in the next epoch


def test_prioritized_draws_in_proportion_and_never_twice_in_a_step():
    weights = torch.tensor([1.0, 3.0] + [0.0] * 10)
    first = Counter()
    source = steps(Prioritized(), lambda uids: weights, size=1)
    for _ in range(500):
        first.update(index for step in source for index in step)
    assert set(first) == {0, 1}
    assert first[1] / (first[0] + first[1]) == pytest.approx(0.75, abs=0.02)
    for step in steps(Prioritized(), lambda uids: torch.ones(12), size=5):
        assert len(set(step)) == 5


def test_weights_are_read_anew_at_every_step():
    asked = []

    def weigh(uids):
        asked.append(uids)
        weights = torch.zeros(len(uids))
        weights[len(asked) % 12] = 1.0
        return weights

    drawn = list(steps(Prioritized(), weigh, size=1))
    assert len(set(map(tuple, drawn))) == 12
    assert all(torch.equal(uids, UIDS) for uids in asked)


def test_draws_are_reproducible():
    weigh = torch.ones_like
    for sampler in (Filtered(), Prioritized()):
        runs = [list(steps(sampler, lambda uids: weigh(uids).float(), seed=seed)) for seed in (3, 3, 4)]
        assert runs[0] == runs[1] != runs[2]
        assert len(runs[0]) == len(steps(sampler, weigh)) == 3


@pytest.mark.parametrize("sampler", [Filtered(), Prioritized()])
def test_too_few_prompts_worth_drawing_is_one_line(sampler):
    source = steps(sampler, lambda uids: (uids == 7).float())
    with pytest.raises(UsageError, match="only 1 prompts are worth drawing, and prompts_per_step is 4"):
        next(iter(source))


@pytest.mark.parametrize("sampler", [Filtered(), Prioritized()])
def test_a_sampler_without_a_source_of_worth_is_one_line(sampler):
    data = PromptData(AbsoluteDifference(train_size=16), prompts_per_step=2, sampler=sampler)
    with pytest.raises(UsageError, match=rf"sampler={type(sampler).__name__} draws prompts by what they are worth"):
        next(iter(data.train_dataloader()))
