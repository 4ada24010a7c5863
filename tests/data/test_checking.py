"""Faults of a task of one's own are one line that names the task, the place and the remedy."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from rl4llm.checks import UsageError
from rl4llm.data import Example, Task
from rl4llm.data.checking import check_reward, checked_examples, checked_traits


def fine(prompt, response, answer):
    return 1.0


async def later(prompt, response, answer):
    return 1.0


@dataclass(frozen=True)
class Own(Task):
    """A task that returns what it is given, or raises it."""

    reward: Any = fine
    given: Any = ()
    seen: Any = field(default_factory=dict)

    def examples(self, split):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def traits(self, response):
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen


def wrong(**fields):
    """An example as no type checker would let it be."""
    example = Example("c", 1, 2)
    for name, value in fields.items():
        object.__setattr__(example, name, value)
    return example


GOOD = [Example("a", 1, 0), Example("b", 1, 1)]
EXAMPLES = {
    "raises": (RuntimeError("the data base is down\nagain"), r"\) raised RuntimeError: the data base is down \(.*line"),
    "tuple": ([*GOOD, ("c", 1, 2)], r"\[2\] is a tuple; make every entry an Example"),
    "uid_text": ([*GOOD, wrong(uid="2")], r"\[2\] has the uid '2'; give every Example a whole number"),
    "uid_negative": ([*GOOD, wrong(uid=-2)], r"\[2\] has the uid -2"),
    "uid_large": ([*GOOD, wrong(uid=2**63)], r"\[2\] has the uid 9223372036854775808"),
    "uid_truth": ([*GOOD, wrong(uid=True)], r"\[2\] has the uid True"),
    "uid_twice": ([*GOOD, wrong(uid=1)], r"\[2\] has the uid 1 of another prompt"),
    "prompt_none": ([*GOOD, wrong(prompt=None)], r"\[2\]: its prompt is null; write a text or a list"),
    "prompt_object": ([*GOOD, wrong(prompt=fine)], r"\[2\]: its prompt is a function; write a text or a list"),
    "prompt_blank": ([*GOOD, wrong(prompt=" \n")], r"\[2\]: its prompt is an empty text"),
}


@pytest.mark.parametrize("fault", EXAMPLES)
def test_a_fault_of_the_examples_is_one_line_with_its_place(fault):
    given, message = EXAMPLES[fault]
    with pytest.raises(UsageError, match=r"^Own.examples\('train'\)") as raised:
        checked_examples(Own(given=given), "train")
    assert raised.match(message)
    assert "\n" not in str(raised.value)


def test_good_examples_pass_and_a_prompt_may_come_twice():
    given = [*GOOD, GOOD[0], Example([{"role": "user", "content": "c"}], None, 2)]
    assert checked_examples(Own(given=given), "train") is given


REWARDS = {
    "missing": (None, "the reward of Own is None; give a function"),
    "number": (3, "the reward of Own is 3; give a function"),
    "two_arguments": (lambda prompt, response: 1.0, r"<lambda>\(prompt, response\), which does not take 3 arguments"),
    "asynchronous": (later, "'later', is asynchronous"),
}


@pytest.mark.parametrize("fault", REWARDS)
def test_a_reward_that_cannot_be_called_is_one_line(fault):
    reward, message = REWARDS[fault]
    with pytest.raises(UsageError, match=message):
        check_reward(Own(reward=reward))


def test_rewards_with_more_settings_or_without_a_signature_pass():
    for reward in (fine, lambda *all: 0.0, lambda p, r, a, scale=2: 0.0, max):
        check_reward(Own(reward=reward))


TRAITS = {
    "raises": (KeyError("x"), r"Own.traits raised KeyError: 'x' \(test_checking.py, line \d+\)"),
    "none": (None, "Own.traits returned a NoneType instead of names with numbers"),
    "text": ({"kind": "a"}, "Own.traits returned {'kind': 'a'}, which are no numbers"),
}


@pytest.mark.parametrize("fault", TRAITS)
def test_a_fault_of_the_traits_is_one_line(fault):
    seen, message = TRAITS[fault]
    with pytest.raises(UsageError, match=message):
        checked_traits(Own(seen=seen), "a response")


def test_traits_are_numbers_by_name():
    assert checked_traits(Own(seen={"thinks": True, "steps": 3}), "") == {"thinks": 1.0, "steps": 3.0}
