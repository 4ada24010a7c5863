"""Data are read before any model, once, and the stream of their prompts goes on exactly."""

import pytest
import transformers

from rl4llm.data import JsonLines, Parquet, PromptData, PromptFormat
from rl4llm.rewards import NumericMatch
from tests.data.helpers import one, questions, write_lines, write_parquet
from tests.recipes.helpers import RECIPES, cli


def small(folder, **fields):
    rows = [*questions(60), *questions(20)]
    options = {"prompt_key": "question", "validation_share": 0.2, "repeats": "drop", "reward": one}
    return Parquet(train=write_parquet(folder / "a.parquet", rows), **{**options, **fields})


@pytest.mark.filterwarnings("ignore:Parquet")  # repetitions are counted
def test_a_resumed_run_goes_on_with_the_very_next_prompts(tmp_path):
    task = small(tmp_path, prompt=PromptFormat(chat=True, few_shot=[{"question": "7+1=", "answer": "8"}]))
    whole = PromptData(task, prompts_per_step=3, seed=1)
    batches = iter(whole.train_dataloader())
    for _ in range(5):
        next(batches)
    state = whole.state_dict()
    expected = [batch.prompts for batch in batches]
    resumed = PromptData(small(tmp_path, prompt=task.prompt), prompts_per_step=3, seed=1)
    resumed.load_state_dict(state)
    found = [batch.prompts for batch, _ in zip(resumed.train_dataloader(), expected, strict=False)]
    assert found == expected
    assert len(expected) > 5


@pytest.mark.filterwarnings("ignore:Parquet")
def test_files_are_read_once_for_tasks_that_differ_in_nothing_but_the_reward(tmp_path):
    first, second = (small(tmp_path, reward=reward) for reward in (one, NumericMatch()))
    assert first.examples("train")[0] is second.examples("train")[0]
    other = small(tmp_path, prompt=PromptFormat(chat=True))
    assert other.examples("train")[0].prompt != first.examples("train")[0].prompt


def test_a_fault_of_the_data_is_found_before_any_model_is_loaded(tmp_path, monkeypatch, capsys):
    def loads(*args, **options):
        raise AssertionError("a tokenizer was loaded")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", loads)
    file = write_lines(tmp_path / "a.jsonl", [*questions(3, "prompt"), {"prompt": None}])
    for action in ("fit", "validate"):
        place = "train" if action == "fit" else "validation"
        flags = ["--data.task=JsonLines", f"--data.task.train={file}", f"--data.task.{place}={file}"]
        with pytest.raises(SystemExit) as left:
            cli(RECIPES["grpo"], action, *flags, "--data.task.reward=NumericMatch", "--model.policy=someone/something")
        assert left.value.code == 2
        assert capsys.readouterr().err.endswith(
            f"error: JsonLines: {file} line 4: 'prompt' is null; write a text or a list of chat messages.\n"
        )


def test_a_reward_with_another_signature_is_found_before_any_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)
    file = write_lines(tmp_path / "a.jsonl", questions(3, "prompt"))
    with pytest.raises(SystemExit):
        cli(
            RECIPES["grpo"],
            "fit",
            "--data.task=JsonLines",
            f"--data.task.train={file}",
            "--data.task.reward=builtins.len",
        )
    assert "does not take 3 arguments" in capsys.readouterr().err


def test_a_task_that_is_only_tested_needs_no_training_prompts(tmp_path):
    task = JsonLines(train=None, test=write_lines(tmp_path / "a", questions(2, "prompt")), reward=one)
    assert [len(task.examples(split)) for split in ("train", "validation", "test")] == [0, 0, 2]
