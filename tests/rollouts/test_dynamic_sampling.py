"""Dynamic sampling: which groups make an update, and what survives a checkpoint."""

from fractions import Fraction

import pytest
import torch
from torch import nan

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, PromptBatch
from rl4llm.rollouts import DynamicSampling

TASK = AbsoluteDifference()


def prompts(*texts, answer=None):
    return PromptBatch([Example(text, answer, index) for index, text in enumerate(texts)], TASK)


def drawn(scores, group_ids, seed=0, time=4):
    rows, generator = len(scores), torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, time, dtype=torch.bool)
    ids = torch.randint(0, 100, (rows, time), generator=generator)
    zeros = torch.zeros(rows, time)
    return RolloutBatch(
        prompt_ids=ids[:, :2],
        prompt_mask=mask[:, :2],
        response_ids=ids,
        response_mask=mask,
        group_ids=torch.tensor(group_ids),
        prompt_uids=torch.tensor(group_ids),
        scores=torch.tensor(scores),
        truncated=torch.zeros(rows, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
        top_ids=ids[..., None].expand(-1, -1, 3),
        policy_version=torch.full((rows,), seed),
    )


def test_groups_with_equal_scores_are_replaced_by_later_ones():
    collect = DynamicSampling().build()
    first = drawn([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1])
    assert collect(first, prompts("1=", "2=")) is None
    second = drawn([0.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], seed=1)
    batch, kept = collect(second, prompts("3=", "4="))
    assert [example.prompt for example in kept.examples] == ["2=", "4="]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert torch.equal(batch.response_ids, torch.cat([first.response_ids[2:], second.response_ids[:2]]))
    assert batch.policy_version.tolist() == [0, 0, 1, 1]


def test_surplus_groups_are_dropped_and_the_next_update_starts_anew():
    collect = DynamicSampling().build()
    _, kept = collect(drawn([1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1]), prompts("1=", "2="))
    assert len(kept) == 2
    assert collect(drawn([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]), prompts("1=", "2=")) is None


def test_after_enough_draws_the_update_is_made_with_what_was_found():
    collect = DynamicSampling(max_draws=2).build()
    silent = drawn([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1])
    assert collect(silent, prompts("1=", "2=")) is None
    batch, kept = collect(drawn([1.0, 0.0, 0.0, 0.0], [0, 0, 1, 1]), prompts("3=", "4="))
    assert [example.prompt for example in kept.examples] == ["3="]
    assert len(batch) == 2
    assert collect(silent, prompts("1=", "2=")) is None
    assert collect(silent, prompts("1=", "2=")) is None  # nothing to learn from at all: no update
    assert collect.draws == 0


def test_unscorable_responses_make_no_group_informative():
    collect = DynamicSampling(max_draws=1).build()
    assert collect(drawn([1.0, nan, 0.0, 0.0], [0, 0, 1, 1]), prompts("1=", "2=")) is None


def test_the_number_of_draws_is_checked():
    with pytest.raises(UsageError, match="DynamicSampling: max_draws must be a whole number of at least 1, got 0"):
        DynamicSampling(max_draws=0)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def through_a_file(state, path):
    """A fresh state that was loaded from a file, without unpickling code."""
    torch.save(state.state_dict(), path)
    fresh = DynamicSampling(state.max_draws).build()
    fresh.load_state_dict(torch.load(path, weights_only=True))
    return fresh


ANSWERS = [None, "6", 3, 2.5, True, ["a", {"b": (1, None)}], {"unit": "m", "value": 3}]


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_what_was_gathered_survives_a_checkpoint(answer, tmp_path):
    chat = [{"role": "user", "content": "2="}]
    going_on = DynamicSampling().build()
    going_on(drawn([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1]), prompts("1=", chat, answer=answer))
    resumed = through_a_file(going_on, tmp_path / "state.pt")
    second = drawn([0.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], seed=1, time=6)
    (batch, kept), (again, kept_again) = (state(second, prompts("3=", "4=")) for state in (going_on, resumed))
    assert list(kept.examples) == list(kept_again.examples)
    assert kept_again.examples[0] == Example(chat, answer, 1)
    assert batch.tensors().keys() == again.tensors().keys()
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in batch.tensors().items())


def test_the_number_of_draws_survives_a_checkpoint(tmp_path):
    silent = drawn([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1])
    found = drawn([1.0, 0.0, 0.0, 0.0], [0, 0, 1, 1])
    state = DynamicSampling(max_draws=3).build()
    state(silent, prompts("1=", "2="))
    state = through_a_file(state, tmp_path / "state.pt")
    assert state(found, prompts("1=", "2=")) is None
    state = through_a_file(state, tmp_path / "state.pt")
    assert state(silent, prompts("1=", "2=")) is not None  # the third draw


class Fractions(AbsoluteDifference):
    """A task whose answers are no plain values."""

    def examples(self, split):
        return [Example(f"{i}=", Fraction(1, i + 1), i) for i in range(4)]


def test_answers_that_a_checkpoint_cannot_hold_are_looked_up_in_the_task(tmp_path):
    task = Fractions()
    state = DynamicSampling().build()
    state(drawn([1.0, 1.0, 0.0, 1.0], [0, 0, 1, 1]), PromptBatch(task.examples("train")[:2], task))
    resumed = through_a_file(state, tmp_path / "state.pt")
    second = drawn([0.0, 1.0, 1.0, 1.0], [1, 1, 0, 0], seed=1)
    _, kept = resumed(second, PromptBatch(task.examples("train")[2:], task))
    assert list(kept.examples) == [task.examples("train")[1], task.examples("train")[3]]
    lost = through_a_file(state, tmp_path / "state.pt")
    lost.found[0][1][0]["uid"] = 77
    with pytest.raises(UsageError, match="1 prompts of the checkpoint are not in the training split"):
        lost(second, PromptBatch(task.examples("train")[2:], task))
