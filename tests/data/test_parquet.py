"""Prompts from Parquet files: nested columns, several files, batches, repetitions."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl4llm.data import JsonLines, Parquet, PromptFormat
from tests.data.helpers import one, questions, write_lines, write_parquet

CHAT = [{"role": "user", "content": "1+1"}]
VERL = {
    "data_source": "math",
    "prompt": CHAT,
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"index": "a", "question": "What is 1+1?", "answer": "two"},
}


def test_the_format_of_verl_is_read_with_paths_into_nested_columns(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [VERL])
    (example,) = Parquet(train=file, reward=one, answer_key="reward_model.ground_truth").examples("train")
    assert (example.prompt, example.answer, example.uid, example.demonstration) == (CHAT, "2", 0, None)
    options = {
        "answer_key": "extra_info.answer",
        "prompt": PromptFormat(template="{data_source}: {extra_info.question}"),
    }
    (example,) = Parquet(train=file, reward=one, **options).examples("train")
    assert (example.prompt, example.answer) == ("math: What is 1+1?", "two")


def test_parquet_and_json_lines_give_the_same_examples(tmp_path):
    rows = [{**row, "response": "so"} for row in questions(1500)]  # two batches
    options = {"reward": one, "prompt_key": "question", "validation_share": 0.1}
    parquet = Parquet(train=write_parquet(tmp_path / "a.parquet", rows, row_group_size=700), **options)
    lines = JsonLines(train=write_lines(tmp_path / "a.jsonl", rows), **options)
    for split in ("train", "validation", "test"):
        assert parquet.examples(split) == lines.examples(split)
    assert len(parquet.examples("train")) > 1000


def test_a_pattern_is_all_its_files_in_order_numbered_through(tmp_path):
    for part in (1, 0):
        write_parquet(tmp_path / f"train-{part}.parquet", questions(4)[2 * part : 2 * part + 2])
    task = Parquet(train=f"{tmp_path}/train-*.parquet", reward=one, prompt_key="question")
    assert [(e.prompt, e.uid) for e in task.examples("train")] == [(f"{i}+1=", i) for i in range(4)]


def test_columns_that_are_not_asked_for_are_not_read_and_memory_is_that_of_a_batch(tmp_path):
    rows = [{**row, "answer": f"{i:01000}", "blob": f"{i:04000}"} for i, row in enumerate(questions(6000))]
    file = write_parquet(tmp_path / "a.parquet", rows, compression="none", row_group_size=500, use_dictionary=False)
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        examples = Parquet(train=file, reward=one, prompt_key="question").examples("train")
    finally:
        pa.set_memory_pool(usual)
    assert len(examples) == 6000
    assert 0 < pool.max_memory() < 4e6  # the answers are 6 MB and the blobs 24 MB


def test_repetitions_are_counted_and_kept_or_dropped(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [*questions(2), {"question": "1+1=", "answer": "3"}, *questions(1)])
    with pytest.warns(UserWarning, match=r"^Parquet: 2 of 4 prompts of .*a.parquet repeat an earlier row\.$"):
        kept = Parquet(train=file, reward=one, prompt_key="question").examples("train")
    assert [example.uid for example in kept] == [0, 1, 2, 0]  # another answer is another prompt
    with pytest.warns(UserWarning, match="2 of 4 prompts of .* repeat an earlier row and are dropped"):
        dropped = Parquet(train=file, reward=one, prompt_key="question", repeats="drop").examples("train")
    assert [(example.uid, example.answer) for example in dropped] == [(0, "1"), (1, "2")]


def test_numbers_dates_and_bytes_may_be_answers(tmp_path):
    table = pa.table({"prompt": ["a", "b"], "answer": pa.array([1, 2], pa.decimal128(5, 2)), "r": [b"x", b"y"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [str(e.answer) for e in Parquet(train=str(tmp_path / "a.parquet"), reward=one).examples("train")] == [
        "1.00", "2.00"
    ]  # fmt: skip
    found = Parquet(train=str(tmp_path / "a.parquet"), reward=one, answer_key="r").examples("train")
    assert [e.answer for e in found] == [b"x", b"y"]


def test_a_reward_that_needs_no_answer_has_none(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [{"prompt": "a"}, {"prompt": "b"}])
    assert [e.answer for e in Parquet(train=file, reward=one, answer_key=None).examples("train")] == [None, None]
