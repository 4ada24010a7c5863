"""Every command of the page on data runs, with a tiny model and tiny files in the place of real ones."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.data.helpers import questions, reading_policy, write_lines, write_parquet
from tests.recipes.helpers import RECIPES, cli

datasets = pytest.importorskip("datasets")
pytest.importorskip("reasoning_gym")
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("offline")]

PAGE = (Path(__file__).parents[2] / "docs/components/data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if "recipes/" in line]
SMALL = [
    "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--model.sampling.max_response_tokens=4",
    "--model.evaluation.samples=2",
]  # fmt: skip
FIT = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.prompts_per_step=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that the commands name."""
    folder = tmp_path_factory.mktemp("page")
    reading_policy(context=400).save(folder / "model")
    rows, published = questions(12), [{**row, "answer": f"so\n#### {row['answer']}"} for row in questions(6)]
    write_lines(folder / "train.jsonl", questions(4, "prompt"))
    write_lines(folder / "held_out.jsonl", questions(6, "prompt")[4:])
    write_parquet(folder / "train.parquet", rows)
    chats = [
        {"prompt": [{"role": "user", "content": row["question"]}], "reward_model": {"ground_truth": row["answer"]}}
        for row in rows
    ]
    write_parquet(folder / "verl-0.parquet", chats)
    write_parquet(folder / "dapo-math-17k.parquet", chats)
    parts = {"train": datasets.Dataset.from_list(rows[:4]), "test": datasets.Dataset.from_list(rows[4:6])}
    datasets.DatasetDict(parts).save_to_disk(folder / "saved_dataset")
    write_parquet(folder / "gsm8k/main/train-00000-of-00001.parquet", published[:4])
    write_parquet(folder / "gsm8k/main/test-00000-of-00001.parquet", published[4:])
    write_lines(folder / "aime_2024.jsonl", [{"problem": "1+1", "answer": "2"}])
    (folder / "mine.py").write_text(
        "def digits_match(prompt, response, answer):\n    return float(answer in response)\n"
    )
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command.split()[1:5]) for command in COMMANDS])
def test_the_command_runs(command, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    _, recipe, action, *flags = shlex.split(command)
    flags = [re.sub(r"^(--model.policy)=Qwen/.*", r"\1=model", flag) for flag in flags]
    small = [*SMALL, *(FIT if action == "fit" else [])]
    if not any(flag.startswith("--model.policy") for flag in flags):
        small = [*small[:2], *small[3:], "--data.task.held_out_size=2", "--data.task.train_size=4"]
    run = cli(RECIPES[Path(recipe).stem], action, *flags, *small)
    assert run.trainer.global_step == (1 if action == "fit" else 0)
    assert len(run.trainer.callback_metrics) > 0


def test_the_page_has_commands_for_every_kind_of_task():
    for kind in ("JsonLines", "Parquet", "HuggingFaceDataset", "GSM8K", "DAPOMath17k", "AIME", "ReasoningGym"):
        assert any(f"--data.task={kind} " in command for command in COMMANDS)
