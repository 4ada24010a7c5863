"""Which answer a response gives: the task's word, the reward's word, or a mark in the text."""

import warnings
from dataclasses import dataclass

import pytest

from rl4llm.data import AbsoluteDifference, Task, extracted_answer, last_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} but then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{a \boxed{b} c}", "b"),
        (r"set \{1, 2\} is \boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("5 + 5\n#### 10\n", "10"),
        ("#### 10\nno\n#### 11 \nthe end", "11"),
        (r"\boxed{1} #### 2", "2"),
        (r"#### 2 \boxed{1}", "1"),
        ("<answer> x\ny </answer>", "x\ny"),
        ("<answer>1</answer> or <answer>2</answer> or <answer>3", "2"),
        (r"<answer>\boxed{9}</answer>", "9"),
        ("42", None),
        ("", None),
        ("</answer>", None),
        (r"\boxed{", None),
    ],
)
def test_the_last_mark_counts(response, answer):
    assert last_answer(response) == answer


@pytest.mark.parametrize("piece", [r"\boxed{", "<answer>", "####", "{", "}", r"\boxed" + " " * 20])
def test_a_response_that_repeats_a_mark_is_read_in_one_pass(piece):
    """A search that begins anew at every mark would take minutes."""
    assert last_answer(piece * 100_000) in (None, "")


def test_the_embedded_task_knows_its_own_answers():
    answers = [extracted_answer(AbsoluteDifference(), text) for text in ("(05)6", "()", "()6)7", "none", r"\boxed{1}")]
    assert answers == ["6", "", "6)7", None, None]


@dataclass(frozen=True)
class Reads:
    """A reward that knows where answers stand."""

    fault: bool = False

    def __call__(self, prompt, response, answer):
        return 1.0

    def extract(self, response):
        if self.fault:
            raise KeyError("x")
        return len(response)


class Silent(Task):
    """A task that says nothing about answers."""

    examples = traits = None

    def __init__(self, reward):
        self.reward = reward


def test_a_reward_says_it_where_the_task_does_not():
    assert extracted_answer(Silent(Reads()), "four") == "4"
    assert extracted_answer(Silent(lambda prompt, response, answer: 1.0), "#### 4") == "4"


def test_a_method_that_raises_finds_no_answer_and_is_told_once():
    with pytest.warns(UserWarning, match=r"Reads.extract raised KeyError: 'x' .* count as giving no answer"):
        assert extracted_answer(Silent(Reads(fault=True)), "a") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extracted_answer(Silent(Reads(fault=True)), "b") is None
