"""Tasks, their splits and their verifiers; what becomes of rewards that fail."""

import pytest
import torch

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, PromptBatch, PromptData
from rl4llm.data.absolute_difference import answer_after_thinking, running_differences
from rl4llm.rewards import score_responses


def test_examples_are_the_same_every_time_and_differ_by_seed():
    first, again, other = (AbsoluteDifference(seed=seed).examples("train")[:20] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_splits_share_no_prompt():
    task = AbsoluteDifference(digits=3, train_size=2000, held_out_size=200)
    seen = {split: {e.prompt for e in task.examples(split)} for split in ("train", "validation", "test")}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    assert len(seen["train"]) > 600


def test_demonstrations_are_right_and_show_some_or_no_steps():
    task = AbsoluteDifference()
    examples = task.examples("train")[:2000]
    assert all(answer_after_thinking(e.prompt, e.demonstration, e.answer) == 1.0 for e in examples)
    for example in examples[:50]:
        steps = running_differences([int(c) for c in example.prompt[:-1]])
        assert example.answer == str(steps[-1])
        assert int(example.prompt[:-1]) == example.uid
        shown = example.demonstration[1:-2].rstrip(".")
        assert "".join(map(str, steps)).startswith(shown)
        assert len(example.demonstration) == 12
    shown = [task.traits(e.demonstration)["thinks"] for e in examples]
    assert 0.35 * 0.9 - 0.035 < sum(share > 0 for share in shown) / 2000 < 0.35 * 0.9 + 0.035
    assert 0.35 * 0.9**9 - 0.03 < sum(share == 1 for share in shown) / 2000 < 0.35 * 0.9**9 + 0.03


def test_all_steps_or_none_are_shown_where_that_is_asked():
    for think_share, stop_share, shown in ((1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 0.0)):
        task = AbsoluteDifference(think_share=think_share, stop_share=stop_share)
        assert {task.traits(e.demonstration)["thinks"] for e in task.examples("train")[:20]} == {shown}


def test_every_length_comes_as_often_and_shortest_equal_to_digits_leaves_the_hardest():
    lengths = [len(str(e.uid)) for e in AbsoluteDifference().examples("train")[:3000]]
    assert set(lengths) == set(range(2, 11))
    assert all(abs(lengths.count(length) / 3000 - 1 / 9) < 0.025 for length in range(2, 11))
    hard = AbsoluteDifference(digits=10, shortest=10).examples("train")[:50]
    assert all(example.prompt[0] != "0" for example in hard)
    with pytest.raises(UsageError, match=r"shortest is 7, digits 6; .*lower the one or raise the other"):
        AbsoluteDifference(digits=6, shortest=7)


@pytest.mark.parametrize(
    ("response", "share"),
    [("(30986)6", 1.0), ("(30...)6", 0.4), ("(.....)6", 0.0), ("()6", 0.0), ("", 0.0), ("(3", 1.0)],
)
def test_thinking_is_the_share_of_steps_shown(response, share):
    assert AbsoluteDifference().traits(response) == {"thinks": pytest.approx(share)}


@pytest.mark.parametrize(
    ("response", "score"),
    [("(30986)6", 1.0), ("()6", 1.0), ("6", 0.0), ("()6)6", 0.0), ("()66", 0.0), ("()", 0.0), ("", 0.0), (")6", 1.0)],
)
def test_the_verifier_reads_what_follows_the_single_parenthesis(response, score):
    assert answer_after_thinking("583912=", response, "6") == score


def test_difficulty_is_one_field():
    assert len(AbsoluteDifference(digits=9).examples("train")[0].prompt) == 10
    with pytest.raises(UsageError, match="digits must be a whole number of at least 3, got 2"):
        AbsoluteDifference(digits=2)


def test_indices_beyond_the_split_raise():
    examples = AbsoluteDifference(held_out_size=3).examples("test")
    assert len(list(examples)) == 3
    assert examples[-1] == examples[2]
    with pytest.raises(IndexError, match="test has 3 examples"):
        examples[3]


def test_every_way_a_reward_can_fail_is_counted_and_named():
    def reward(prompt, response, answer):
        if response == "raise":
            raise KeyError("x")
        return {"none": None, "nan": float("nan"), "inf": float("inf"), "text": "high", "true": True, "one": 1}[
            response
        ]

    responses = ["raise", "none", "nan", "inf", "text", "true", "one", "none"]
    scores, problems = score_responses(reward, [""] * 8, responses, [None] * 8)
    assert scores.isnan().tolist() == [True] * 5 + [False, False, True]
    assert scores[5:7].tolist() == [1.0, 1.0]
    assert problems == {
        "raised KeyError, for example \"'x'\"": 1,
        "returned None": 2,
        "returned nan": 1,
        "returned inf": 1,
        "returned a str, not a number, for example 'high'": 1,
    }


def test_scores_go_with_the_draw_they_answer():
    task = AbsoluteDifference(reward=lambda prompt, response, answer: float(answer == response))
    batch = PromptBatch(task.examples("test")[:2], task)
    answers = [example.answer for example in batch.examples]
    assert batch.score([answers[1], answers[0], answers[0]], [1, 0, 0]).scores.tolist() == [1.0, 1.0, 1.0]


def test_loaders_yield_prompts_in_an_order_that_depends_on_the_seed_alone():
    def order(seed):
        loader = PromptData(AbsoluteDifference(train_size=50), prompts_per_step=10, seed=seed).train_dataloader()
        return [uid for batch in loader for uid in batch.uids.tolist()]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert len(order(1)) == 50
    torch.manual_seed(5)
    by_run_seed = order(None)
    torch.manual_seed(5)
    assert order(None) == by_run_seed


def test_held_out_prompts_come_in_order_and_all_of_them():
    data = PromptData(AbsoluteDifference(held_out_size=5), held_out_per_step=2)
    assert [len(batch) for batch in data.val_dataloader()] == [2, 2, 1]
    assert [len(batch) for batch in data.test_dataloader()] == [2, 2, 1]


def test_too_few_prompts_for_a_step_is_one_line():
    data = PromptData(AbsoluteDifference(train_size=5), prompts_per_step=6)
    with pytest.raises(UsageError, match="prompts_per_step is 6, the training split has 5"):
        data.train_dataloader()
