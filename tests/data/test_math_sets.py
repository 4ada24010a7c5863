"""Published sets in their published formats: columns, answers, splits, rewards."""

import pytest

from rl4llm.checks import UsageError
from rl4llm.data import AIME, AMC, GSM8K, MATH500, DAPOMath17k, DeepMath103K, OlympiadBench, PublishedSet
from rl4llm.data.answers import read_answer
from tests.data.helpers import one, questions, write_lines, write_parquet

# A row as each set is published (the sources are named in the docstrings), and what is read of it.
ROWS = {
    GSM8K: ({"question": "Q", "answer": "20*52=<<20*52=1040>>1040\n#### 1,040"}, "1040", "20*52 is\n#### 1040"),
    MATH500: (
        {"problem": "Q", "solution": r"So \boxed{\frac{1}{2}}.", "answer": r"\frac{1}{2}", "subject": "Algebra",
         "level": 2, "unique_id": "test/1.json"},
        r"\frac{1}{2}", r"It is $\boxed{\frac12}$.",
    ),
    DeepMath103K: (
        {"question": "Q", "final_answer": r"\infty", "difficulty": 4.5, "topic": "Calculus", "r1_solution_1": "so"},
        r"\infty", r"$\boxed{\infty}$",
    ),
    DAPOMath17k: (
        {"data_source": "math_dapo", "prompt": [{"content": "Q", "role": "user"}], "ability": "MATH",
         "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"}, "extra_info": {"index": "9a"}},
        "34", "Answer: 34",
    ),
    AIME: ({"id": 60, "problem": "Q", "solution": "so", "answer": "204", "year": "2024"}, "204", "It is 204."),
    AMC: ({"id": 0, "problem": "Q", "answer": 142.0, "url": ""}, 142.0, r"\boxed{142}"),
    OlympiadBench: (
        {"id": 1, "question": "Q", "solution": ["so"], "final_answer": ["$2$", "$3$"], "is_multiple_answer": True},
        "$2$, $3$", r"$2, 3$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("write", [write_parquet, write_lines])
def test_a_row_as_published_is_read_and_its_answer_scores_one(tmp_path, kind, write):
    row, answer, response = ROWS[kind]
    ending = ".parquet" if write is write_parquet else ".jsonl"
    task = kind(train=write(tmp_path / f"file{ending}", [row]))
    (example,) = task.examples("train")
    assert example.prompt == ([{"content": "Q", "role": "user"}] if kind is DAPOMath17k else "Q")
    assert example.answer == answer
    assert task.reward(example.prompt, response, example.answer) == 1.0
    assert task.reward(example.prompt, "It is 7.", example.answer) == 0.0


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"Problem": "Q", "Answer": 204, "Solution": "so"}, 204),
        ({"question": "Q", "answer": "204"}, "204"),
    ],
)
def test_other_editions_of_aime_have_other_names_for_their_columns(tmp_path, row, answer):
    (example,) = AIME(test=write_parquet(tmp_path / "a.parquet", [row])).examples("test")
    assert (example.prompt, example.answer) == ("Q", answer)


def test_demonstrations_are_the_published_solutions(tmp_path):
    row, *_ = ROWS[GSM8K]
    (example,) = GSM8K(train=write_parquet(tmp_path / "a.parquet", [row])).examples("train")
    assert example.demonstration == row["answer"]


def test_a_folder_has_the_published_splits(tmp_path, offline):
    rows = [{**row, "answer": f"#### {row['answer']}"} for row in questions(5)]
    for split, some in (("train", rows[:3]), ("test", rows[3:])):
        write_parquet(tmp_path / "gsm8k" / "main" / f"{split}-00000-of-00001.parquet", some)
    for folder in ("gsm8k", "gsm8k/main"):
        task = GSM8K(folder=str(tmp_path / folder))
        assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [3, 2, 2]
    task = GSM8K(folder=str(tmp_path / "gsm8k"), validation_share=0.4)
    parts = [{example.prompt for example in task.examples(split)} for split in ("train", "validation", "test")]
    assert len(parts[0] | parts[1]) == 3
    assert parts[2] == {"3+1=", "4+1="}
    write_parquet(tmp_path / "aime" / "train.parquet", [ROWS[AIME][0]])
    assert [len(AIME(folder=str(tmp_path / "aime")).examples(split)) for split in ("train", "validation", "test")] == [
        0,
        1,
        1,
    ]


def test_repetitions_in_dapo_are_dropped(tmp_path):
    row, *_ = ROWS[DAPOMath17k]
    with pytest.warns(UserWarning, match="2 of 3 prompts of .* repeat an earlier row and are dropped"):
        assert len(DAPOMath17k(train=write_parquet(tmp_path / "a.parquet", [row] * 3)).examples("train")) == 1


def test_data_at_hand_are_needed():
    with pytest.raises(
        UsageError, match="GSM8K: no data are given; set folder, or train, validation or test to a file"
    ):
        GSM8K()
    with pytest.raises(UsageError, match="AIME: folder '/none' does not exist"):
        AIME(folder="/none")


def test_every_published_set_is_tested():
    assert set(ROWS) == set(PublishedSet.__subclasses__())


@pytest.mark.parametrize(
    ("text", "form", "answer"),
    [
        ("#### 42", "hashes", "42"),
        ("a #### 1\n#### -2,000,000.5 \n", "hashes", "-2000000.5"),
        ("#### 1,2", "hashes", "1,2"),
        (r"\boxed{1} and \boxed{\frac{1}{\sqrt{2}}}", "boxed", r"\frac{1}{\sqrt{2}}"),
        (["a"], "list", "a"),
        ([1, 2], "list", "1, 2"),
        ([2], "whole", [2]),
        (None, "boxed", None),
    ],
)
def test_answers_are_read_in_their_form(text, form, answer):
    assert read_answer(text, form, "") == answer


@pytest.mark.parametrize(
    ("value", "form", "message"),
    [
        ("42", "hashes", "holds no '####' with an answer"),
        ("#### ", "hashes", "holds no '####' with an answer"),
        (r"\boxed{1", "boxed", r"holds no '.boxed\{...\}' with an answer"),
        (r"\boxed{}", "boxed", r"holds no '.boxed\{...\}' with an answer"),
        (3, "boxed", ".*answer_form='boxed' needs one. Set answer_form=whole"),
        ([], "list", "is a list or empty; answer_form='list' needs a list of texts"),
        ("a", "list", "is a text or empty"),
    ],
)
def test_an_answer_in_another_form_is_one_line(value, form, message):
    with pytest.raises(UsageError, match=f"^row 3 {message}"):
        read_answer(value, form, "row 3")


def test_a_set_is_refused_where_no_answer_is_found(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [{"question": "Q", "answer": "42"}])
    with pytest.raises(UsageError, match=r"GSM8K: .*a.parquet row 1: 'answer' holds no '####'"):
        GSM8K(train=file, reward=one).examples("train")
