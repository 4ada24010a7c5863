"""Completions of cut responses: with their beginning, against their own prompt, shared out over the ranks."""

import pytest
import torch

from rl4llm.algorithms import Runtime
from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.completions import complete
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, PromptBatch
from rl4llm.models import Policy
from rl4llm.rewards import Scoring
from rl4llm.rollouts import HuggingFaceRollout, Sampling, decode_responses, draw_rollouts
from tests.algorithms.helpers import on_ranks


@pytest.fixture(scope="module")
def policy():
    return Policy.load("rl4llm/digits")


class Heard:
    """A reward that keeps every call, and gives the length of the response."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompt, response, answer):
        self.calls.append((prompt, response))
        return float(len(response))


def prompts(reward, *texts):
    examples = [Example(text, None, index) for index, text in enumerate(texts or ("583912=", "12="))]
    return PromptBatch(examples, AbsoluteDifference(reward=reward))


def answering(policy):
    engine = HuggingFaceRollout().build(policy)
    engine.sync(policy.model.named_parameters(), 0)
    return Answering(policy, engine, Scoring(workers=0).build(), Sampling())


def drawn(one, asked, n=2):
    seeds = Runtime().seeds("rollout", range(len(asked)))
    return draw_rollouts(one.engine, one.policy, asked, responses_per_prompt=n, sampling=one.sampling, seeds=seeds)


def test_completions_are_scored_with_their_beginning_and_against_their_own_prompt(policy):
    one, reward = answering(policy), Heard()
    asked = prompts(reward)
    batch = drawn(one, asked)
    texts = decode_responses(policy, batch)
    rows, cuts = torch.tensor([3, 0]), torch.tensor([2, 1])
    scores = complete(Runtime(), one, asked, batch, rows, cuts, samples=3)
    assert [prompt for prompt, _ in reward.calls] == ["12="] * 3 + ["583912="] * 3
    assert all(response.startswith(texts[3][:2]) for _, response in reward.calls[:3])
    assert all(response.startswith(texts[0][:1]) for _, response in reward.calls[3:])
    assert all(len(response) <= 16 for _, response in reward.calls)
    assert scores.flatten().tolist() == [len(response) for _, response in reward.calls]
    assert scores.shape == (2, 3)


def test_a_greedy_completion_is_the_greedy_response(policy):
    one, reward = answering(policy), Heard()
    asked = prompts(reward)
    batch = drawn(one, asked)
    rows, cuts = torch.tensor([0, 2]), torch.zeros(2, dtype=torch.long)
    complete(Runtime(), one, asked, batch, rows, cuts, samples=1, greedy=True)
    greedy = Answering(policy, one.engine, one.scorer, Sampling(temperature=0.0))
    assert [response for _, response in reward.calls] == decode_responses(policy, drawn(greedy, asked, n=1))


def test_a_greedy_completion_of_a_greedy_response_is_that_response_wherever_it_is_cut(policy):
    one, reward = answering(policy), Heard()
    asked = prompts(reward)
    greedy = Answering(policy, one.engine, one.scorer, Sampling(temperature=0.0))
    batch = drawn(greedy, asked, n=1)
    (text, _), length = decode_responses(policy, batch), int(batch.lengths[0])
    cuts = torch.arange(length)
    complete(Runtime(), one, asked, batch, torch.zeros_like(cuts), cuts, samples=1, greedy=True)
    assert length > 2
    assert [response for _, response in reward.calls] == [text] * length


def test_beginning_and_completion_together_keep_the_length_limit(policy):
    one, reward = answering(policy), Heard()
    asked = prompts(reward)
    batch = drawn(one, asked)
    short = Answering(policy, one.engine, one.scorer, Sampling(max_response_tokens=3))
    row = int(batch.lengths.argmax())
    assert int(batch.lengths[row]) > 2
    rows, cuts = torch.full((2,), row), torch.tensor([0, 2])
    complete(Runtime(), short, asked, batch, rows, cuts, samples=4)
    assert max(len(response) for _, response in reward.calls) <= 3


def test_replayed_rows_are_refused(policy):
    one, asked = answering(policy), prompts(Heard())
    batch = drawn(one, asked).replace(replayed=torch.tensor([False, True, False, False]))
    zero = torch.zeros(1, dtype=torch.long)
    complete(Runtime(), one, asked, batch, zero, zero, samples=1)
    with pytest.raises(UsageError, match="replayed responses cannot be completed"):
        complete(Runtime(), one, asked, batch, zero + 1, zero, samples=1)


@pytest.mark.parametrize("ranks", [2, 5])
def test_ranks_together_complete_what_one_process_does(policy, ranks):
    asked = prompts(Heard())
    batch = drawn(answering(policy), asked)
    rows, cuts = torch.tensor([3, 0, 1, 0]), torch.tensor([2, 1, 0, 0])
    alone = complete(Runtime(seed=4), answering(policy), asked, batch, rows, cuts, samples=3)
    assert len(alone.unique()) > 1
    ones = [answering(Policy.copy_of(policy)) for _ in range(ranks)]

    def work(runtime):
        own = Runtime(4, 0, runtime.rank, ranks, gather=runtime.gather)
        return complete(own, ones[runtime.rank], asked, batch, rows, cuts, samples=3)

    for scores in on_ranks(ranks, work):
        assert torch.equal(scores, alone)


def test_completions_of_another_step_are_others(policy):
    one, asked = answering(policy), prompts(Heard())
    batch = drawn(one, asked)
    rows, cuts = torch.arange(4), torch.zeros(4, dtype=torch.long)
    first, again, later = (complete(Runtime(step=step), one, asked, batch, rows, cuts, samples=6) for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_no_cuts_are_no_scores(policy):
    one, asked = answering(policy), prompts(Heard())
    none = torch.zeros(0, dtype=torch.long)
    assert complete(Runtime(), one, asked, drawn(one, asked), none, none, samples=3).shape == (0, 3)
