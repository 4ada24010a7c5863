"""Splits by hash: a question belongs to one split, whatever else is in the data."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.data import JsonLines, PromptFormat
from rl4llm.data.prompts import fingerprint
from rl4llm.data.splitting import split_of
from tests.data.helpers import one, questions, write_lines

SPLITS = ("train", "validation", "test")
SHARES = {"validation_share": 0.2, "test_share": 0.3}


def split(path, rows, **options):
    """Which questions are in which split."""
    task = JsonLines(train=write_lines(path, rows), reward=one, **{"prompt_key": "question", **SHARES, **options})
    return {split: [example.answer for example in task.examples(split)] for split in SPLITS}


def test_shares_divide_the_questions_and_lose_none(tmp_path):
    found = split(tmp_path / "a", questions(1000))
    assert sorted((answer for part in found.values() for answer in part), key=int) == [str(i + 1) for i in range(1000)]
    assert [len(found[name]) / 1000 for name in SPLITS] == pytest.approx([0.5, 0.2, 0.3], abs=0.04)


def test_a_split_depends_on_the_question_alone(tmp_path):
    rows = questions(300)
    whole = split(tmp_path / "a", rows)
    shuffled = random.Random(0).sample(rows, 150)
    part = split(tmp_path / "b", shuffled, prompt=PromptFormat(template="Q: {question}", chat=True, system="S"))
    for name in SPLITS:
        assert set(part[name]) == set(whole[name]) & {row["answer"] for row in shuffled}


def test_repetitions_of_a_question_are_in_one_split(tmp_path):
    rows = questions(50)
    rows += [{**row, "question": f" {row['question']}\n", "answer": f"{row['answer']} again"} for row in rows]
    found = split(tmp_path / "a", rows)
    for name in SPLITS:
        assert {answer for answer in found[name] if "again" not in answer} == {
            answer.removesuffix(" again") for answer in found[name] if "again" in answer
        }


def test_a_larger_share_keeps_what_was_held_out(tmp_path):
    rows = questions(400)
    small, large = (split(tmp_path / str(share), rows, test_share=share)["test"] for share in (0.1, 0.4))
    assert set(small) < set(large)


def test_hashes_are_the_same_in_every_process_and_version():
    assert fingerprint("1+1=").hex() == "9ffe8627f3749018"
    assert fingerprint("1 +\u20031") == fingerprint("1 + 1") == fingerprint([{"role": "user", "content": "1 + 1"}])
    assert fingerprint("1+1") != fingerprint("1+2")


@given(st.integers(0, 2**64 - 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_shares_are_intervals_of_the_hashes(number, validation, test):
    place, found = number / 2**64, split_of(number.to_bytes(8, "big"), validation, test)
    assert found == ("test" if place < test else "validation" if place < test + validation else "train")


def test_the_test_split_is_the_validation_split_unless_it_has_a_share(tmp_path):
    found = split(tmp_path / "a", questions(100), test_share=0.0)
    assert found["test"] == found["validation"]
    assert not set(found["train"]) & set(found["test"])


def test_a_validation_file_goes_with_a_share_for_the_test(tmp_path):
    held_out = write_lines(tmp_path / "b", [{"question": "9", "answer": "file"}])
    found = split(tmp_path / "a", questions(100), validation_share=0.0, validation=held_out)
    assert found["validation"] == ["file"]
    assert len(found["train"]) + len(found["test"]) == 100


def test_a_share_that_leaves_a_split_empty_is_one_line(tmp_path):
    with pytest.raises(
        UsageError, match=r"validation_share=0.0001 .* of the 3 prompts .* leave the validation split e"
    ):
        split(tmp_path / "a", questions(3), validation_share=0.0001, test_share=0.0)
    with pytest.raises(UsageError, match="validation and validation_share are both given"):
        split(tmp_path / "a", questions(3), validation=str(tmp_path / "a"))
    with pytest.raises(UsageError, match=r"both_shares must be in \[0, 1\)"):
        split(tmp_path / "a", questions(3), validation_share=0.7)
