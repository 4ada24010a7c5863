"""What an engine is asked for beyond responses to prompts: limits, beginnings, likeliest tokens; and text by token."""

import pytest
import torch

from rl4llm.algorithms.acting import Actor
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, PromptBatch
from rl4llm.models import Policy
from rl4llm.rollouts import (
    DynamicSampling,
    HuggingFaceRollout,
    Responses,
    Sampling,
    decode_pieces,
    decode_responses,
)
from rl4llm.rollouts.base import _by_prefixes


@pytest.fixture(scope="module")
def policy():
    return Policy.load("rl4llm/digits")


def prompts(*texts, reward=None):
    task = AbsoluteDifference() if reward is None else AbsoluteDifference(reward=reward)
    return PromptBatch([Example(text, None, index) for index, text in enumerate(texts)], task)


def generate(policy, rows, limits, copies=2, top=0, seed=0, **sampling):
    width = max(map(len, rows))
    ids = torch.tensor([[policy.pad_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return HuggingFaceRollout(top_log_probs=top).generate(
        policy,
        ids,
        mask,
        torch.tensor(limits),
        copies=copies,
        sampling=Sampling(**sampling),
        generator=torch.Generator().manual_seed(seed),
    )


def test_every_prefix_has_its_own_limit(policy):
    row = policy.tokenizer("583912=")["input_ids"]
    drawn = generate(policy, [row, row, row], [1, 3, 9], copies=4)
    assert drawn.lengths.reshape(3, 4).amax(-1).tolist() == [1, 3, 9]
    assert (drawn.ended | (drawn.lengths == torch.tensor([1, 3, 9]).repeat_interleave(4))).all()
    assert not drawn.ended[drawn.lengths == 1].any()


def test_a_response_goes_on_from_its_beginning_as_it_would_have(policy):
    row = policy.tokenizer("583912=")["input_ids"]
    whole = generate(policy, [row], [16], copies=1, temperature=0.0)
    assert int(whole.lengths[0]) > 2
    for cut in range(1, int(whole.lengths[0])):
        rest = generate(policy, [row + whole.ids[0, :cut].tolist()], [16 - cut], copies=1, temperature=0.0)
        assert rest.ids[0].tolist() == whole.ids[0, cut : int(whole.lengths[0])].tolist()
        torch.testing.assert_close(rest.log_probs[0], whole.log_probs[0, cut:], atol=1e-5, rtol=0)


def test_likeliest_tokens_come_with_their_log_probs_whatever_was_drawn(policy):
    drawn = generate(policy, [policy.tokenizer("12=")["input_ids"]], [8], copies=6, top=3)
    inside = drawn.mask
    best = drawn.top_log_probs[..., 0]
    assert (best >= drawn.log_probs)[inside].all()
    is_best = (drawn.top_ids[..., 0] == drawn.ids) & inside
    torch.testing.assert_close(drawn.log_probs[is_best], best[is_best])
    assert not drawn.top_log_probs[~inside].any()


def test_pieces_of_different_widths_join():
    a = Responses(torch.ones(1, 2, dtype=torch.long), torch.tensor([2]), torch.tensor([True]), torch.zeros(1, 2))
    b = Responses(torch.ones(1, 4, dtype=torch.long), torch.tensor([4]), torch.tensor([False]), torch.zeros(1, 4))
    joined = Responses.cat([a, b])
    assert joined.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert joined.entropies is None


# --- completions ------------------------------------------------------------------------------------------------------


def acted(policy, reward, n=2):
    actor = Actor(HuggingFaceRollout(), Sampling(), n)
    batch = actor.act(policy, prompts("583912=", "12=", reward=reward), torch.Generator().manual_seed(0), Meter())
    return actor, batch


def test_completions_are_scored_with_their_beginning_and_against_their_own_prompt(policy):
    heard = []

    def reward(prompt, response, answer):
        heard.append((prompt, response))
        return 1.0

    actor, batch = acted(policy, reward)
    texts = decode_responses(policy, batch)
    heard.clear()
    rows, cuts = torch.tensor([3, 0]), torch.tensor([2, 1])
    generator = torch.Generator().manual_seed(1)
    scores = actor.complete(policy, prompts("583912=", "12=", reward=reward), generator, batch, rows, cuts, samples=3)
    assert scores.tolist() == [[1.0] * 3] * 2
    assert [prompt for prompt, _ in heard] == ["12="] * 3 + ["583912="] * 3
    assert all(response.startswith(texts[3][:2]) for _, response in heard[:3])
    assert all(response.startswith(texts[0][:1]) for _, response in heard[3:])
    assert all(len(response) <= 16 for _, response in heard)


def test_a_greedy_completion_is_the_greedy_response(policy):
    heard = []

    def reward(prompt, response, answer):
        heard.append(response)
        return 0.5

    actor, batch = acted(policy, reward)
    heard.clear()
    asked = prompts("583912=", "12=", reward=reward)
    generator = torch.Generator().manual_seed(1)
    rows = torch.tensor([0, 2])
    actor.complete(policy, asked, generator, batch, rows, torch.zeros(2, dtype=torch.long), samples=1, greedy=True)
    engine, greedy = HuggingFaceRollout(), Sampling(temperature=0.0)
    alone = engine(policy, asked, responses_per_prompt=1, sampling=greedy, generator=generator)
    assert heard == decode_responses(policy, alone)


def test_replayed_rows_are_refused(policy):
    actor, batch = acted(policy, lambda prompt, response, answer: 1.0)
    batch = batch.replace(replayed=torch.tensor([False, True, False, False]))
    zero = torch.zeros(1, dtype=torch.long)
    with pytest.raises(UsageError, match="replayed responses cannot be completed"):
        actor.complete(policy, prompts("1=", "2="), torch.Generator(), batch, zero + 1, zero, samples=1)


# --- text by token ----------------------------------------------------------------------------------------------------


def test_pieces_join_to_the_response(policy):
    _, batch = acted(policy, lambda prompt, response, answer: 1.0, n=8)
    for pieces, text, width in zip(
        decode_pieces(policy, batch), decode_responses(policy, batch), batch.widths.tolist(), strict=True
    ):
        assert "".join(pieces) == text
        assert len(pieces) == width


class Bytes:
    """A tokenizer whose tokens are bytes, so that one character may take several."""

    def decode(self, ids, skip_special_tokens=True):
        return bytes(ids).decode("utf-8", errors="replace")

    def batch_decode(self, rows, skip_special_tokens=True):
        return [self.decode(row) for row in rows]


def test_a_character_of_several_tokens_belongs_to_the_one_that_ends_it(unchecked_shapes):
    class Stub:
        tokenizer = Bytes()

    text = "aé→b"
    pieces = _by_prefixes(Stub(), list(text.encode()))
    assert "".join(pieces) == text
    assert pieces == ["a", "", "é", "", "", "→", "b"]


# --- dynamic sampling -------------------------------------------------------------------------------------------------


def drawn(scores, group_ids, policy):
    _, batch = acted(policy, lambda prompt, response, answer: 1.0, n=len(scores) // 2)
    scores = torch.tensor(scores)
    return batch.replace(scores=scores, group_ids=torch.tensor(group_ids))


def test_groups_with_equal_scores_are_replaced_by_later_ones(policy):
    collect = DynamicSampling().build()
    asked = prompts("1=", "2=")
    first = drawn([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1], policy)
    assert collect(first, asked) is None
    second = drawn([0.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], policy)
    batch, kept = collect(second, prompts("3=", "4="))
    assert [example.prompt for example in kept.examples] == ["2=", "4="]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert torch.equal(batch.response_ids[:2, :4], first.response_ids[2:, :4])
    assert torch.equal(batch.response_ids[2:, :4], second.response_ids[:2, :4])


def test_surplus_groups_are_dropped_and_the_next_update_starts_anew(policy):
    collect = DynamicSampling().build()
    _, kept = collect(drawn([1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1], policy), prompts("1=", "2="))
    assert len(kept) == 2
    assert collect(drawn([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], policy), prompts("1=", "2=")) is None


def test_after_enough_draws_the_update_is_made_with_what_was_found(policy):
    collect = DynamicSampling(max_draws=2).build()
    silent = drawn([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], policy)
    assert collect(silent, prompts("1=", "2=")) is None
    batch, kept = collect(drawn([1.0, 0.0, 0.0, 0.0], [0, 0, 1, 1], policy), prompts("3=", "4="))
    assert [example.prompt for example in kept.examples] == ["3="]
    assert len(batch) == 2
    assert collect(silent, prompts("1=", "2=")) is None
    assert collect(silent, prompts("1=", "2=")) is None  # nothing to learn from at all: no update


def test_unscorable_responses_make_no_group_informative(policy):
    collect = DynamicSampling(max_draws=1).build()
    assert collect(drawn([1.0, float("nan"), 0.0, 0.0], [0, 0, 1, 1], policy), prompts("1=", "2=")) is None


def test_the_number_of_draws_is_checked():
    with pytest.raises(UsageError, match="DynamicSampling: max_draws must be a whole number of at least 1, got 0"):
        DynamicSampling(max_draws=0)
