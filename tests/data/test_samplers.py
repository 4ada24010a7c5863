"""Which prompts come next."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, Filtered, Place, Prioritized, PromptData, PromptStream, Shuffled
from rl4llm.data.stream import Progress
from rl4llm.randomness import generator

UIDS = torch.arange(12) * 7
TASK = AbsoluteDifference()
SAMPLERS = [Shuffled(), Filtered(), Prioritized()]


def stream(sampler, weigh, size=4, seed=0):
    examples = [Example("1", None, uid) for uid in UIDS.tolist()]
    return PromptStream(examples, TASK, size, sampler, Progress(Place(seed)), weigh)


def steps(*args, epochs=1, **options):
    """Positions of the prompts of each step."""
    loader = stream(*args, **options)
    return [[uid // 7 for uid in batch.uids.tolist()] for _ in range(epochs) for batch in loader]


def flat(epoch):
    return [index for step in epoch for index in step]


def test_shuffled_visits_every_prompt_once_per_epoch_and_asks_for_no_weights():
    def weigh(uids):
        raise AssertionError

    drawn = steps(Shuffled(), weigh, size=4, epochs=2)
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(flat(epoch)) == list(range(12))
        assert flat(epoch) != list(range(12))
    assert drawn[:3] != drawn[3:]
    assert len({index for step in steps(Shuffled(), weigh, size=5) for index in step}) == 10  # the rest is dropped


def test_filtered_visits_every_worthy_prompt_once_per_epoch():
    drawn = steps(Filtered(), lambda uids: (uids % 2 == 0).float(), size=2)
    assert len(drawn) == 6  # two epochs of three steps
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(flat(epoch)) == [0, 2, 4, 6, 8, 10]
    assert drawn[:3] != drawn[3:]


def test_filtered_asks_what_is_worth_drawing_once_per_epoch():
    asked = []

    def weigh(uids):
        asked.append(uids)
        return ((uids // 7) % 2 == len(asked) % 2).float()

    drawn = steps(Filtered(), weigh, size=2)
    assert len(asked) == 2
    assert [{index % 2 for index in flat(epoch)} for epoch in (drawn[:3], drawn[3:])] == [{1}, {0}]
    assert torch.equal(asked[0], UIDS)


def test_prioritized_draws_in_proportion_and_never_twice_in_a_step():
    weights = torch.tensor([1.0, 3.0] + [0.0] * 10)
    counts = Counter(index for step in steps(Prioritized(), lambda uids: weights, size=1, epochs=500) for index in step)
    assert set(counts) == {0, 1}
    assert counts[1] / counts.total() == pytest.approx(0.75, abs=0.02)
    for step in steps(Prioritized(), lambda uids: torch.ones(12), size=5):
        assert len(set(step)) == 5


def test_prioritized_reads_the_weights_anew_at_every_step():
    asked = []

    def weigh(uids):
        asked.append(uids)
        weights = torch.zeros(len(uids))
        weights[len(asked) % 12] = 1.0
        return weights

    assert steps(Prioritized(), weigh, size=1) == [[(count + 1) % 12] for count in range(12)]
    assert all(torch.equal(uids, UIDS) for uids in asked)


def test_a_step_is_drawn_when_it_is_asked_for_and_not_before():
    asked = []
    loader = iter(stream(Prioritized(), lambda uids: asked.append(uids) or torch.ones(12)))
    assert not asked
    for count in (1, 2, 3):
        next(loader)
        assert len(asked) == count


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_depend_on_the_seed_alone(sampler):
    def weigh(uids):
        return 1.0 + (uids % 3)

    first = steps(sampler, weigh, seed=3)
    torch.rand(5)
    assert first == steps(sampler, weigh, seed=3)
    assert first != steps(sampler, weigh, seed=4)
    assert len(first) == len(stream(sampler, weigh)) == 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_is_a_function_of_the_place(sampler):
    place = Place(seed=1, epoch=4, step=2, kept=torch.arange(12) if sampler == Filtered() else None)
    drawn = sampler.draw(lambda: torch.ones(12).double(), place, 12, 4).tolist()
    assert drawn == sampler.draw(lambda: torch.ones(12).double(), place, 12, 4).tolist()
    for other in ({"seed": 2}, {"epoch": 5}, {"step": 1}):
        assert drawn != sampler.draw(lambda: torch.ones(12).double(), replace(place, **other), 12, 4).tolist()


def test_the_random_numbers_belong_to_the_seed_the_epoch_and_the_step():
    weights, draws = 1.0 + UIDS.double(), steps(Prioritized(), lambda uids: 1.0 + uids, seed=5, epochs=2)
    for count, drawn in enumerate(draws):
        random = generator("prompts", 5, count // 3, count % 3)
        assert drawn == torch.multinomial(weights, 4, generator=random).tolist()
    orders = steps(Shuffled(), lambda uids: None, seed=5, epochs=2)
    for epoch in (0, 1):
        order = torch.randperm(12, generator=generator("prompts", 5, epoch))
        assert flat(orders[3 * epoch : 3 * epoch + 3]) == order.tolist()


@pytest.mark.parametrize("sampler", [Filtered(), Prioritized()])
def test_too_few_prompts_worth_drawing_is_one_line(sampler):
    source = stream(sampler, lambda uids: (uids == 7).float())
    with pytest.raises(UsageError, match="only 1 prompts are worth drawing, and prompts_per_step is 4"):
        next(iter(source))


@pytest.mark.parametrize("sampler", [Filtered(), Prioritized()])
def test_a_sampler_without_a_source_of_worth_is_one_line(sampler):
    data = PromptData(AbsoluteDifference(train_size=16), prompts_per_step=2, sampler=sampler)
    with pytest.raises(UsageError, match=rf"sampler={type(sampler).__name__} draws prompts by what they are worth"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize(
    "weights", [torch.full((12,), torch.nan), torch.arange(12.0) - 1, torch.ones(11), torch.ones(0)]
)
@pytest.mark.parametrize("sampler", [Filtered(), Prioritized()])
def test_impossible_weights_are_one_line(sampler, weights):
    with pytest.raises(UsageError, match="return one finite weight of at least 0 for each of the 12 prompts"):
        next(iter(stream(sampler, lambda uids: weights)))
