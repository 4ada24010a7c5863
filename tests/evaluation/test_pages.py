"""Every command on the pages about evaluation does what it says, on a tiny run."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from recipes.evaluate import evaluate
from rl4llm.data import PromptData
from rl4llm.data.stream import HeldOutPrompts
from rl4llm.evaluation import run_tool
from tests.recipes.helpers import RECIPES, SHORT, cli

DOCS = Path(__file__).parents[2] / "docs"
REWARD = "def exact_answer(prompt, response, answer):\n    return float(response.endswith(answer))\n"


def commands(page):
    """The commands of a page, as lists of words."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python recipes/")]


def few(self):
    return HeldOutPrompts([self._examples("test")[index] for index in range(2)], self.task, self.held_out_per_step)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with three runs, a data set and a reward."""
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        cli(RECIPES["asyppo"], "fit", *SHORT, "--model.scoring.workers=0")
        for version in (1, 2):
            shutil.copytree("runs/asyppo/version_0", f"runs/asyppo/version_{version}")
    for split, starts in {"train": (1, 2), "test": (3, 4)}.items():
        lines = [f'{{"prompt": "{start}000000012=", "answer": "1"}}\n' for start in starts]
        (root / f"{split}.jsonl").write_text("".join(lines))
    (root / "my_rewards.py").write_text(REWARD)
    return root


@pytest.mark.long
@pytest.mark.parametrize("words", commands("evaluate.md"), ids=" ".join)
def test_commands_of_the_page_evaluate(place, monkeypatch, words):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(PromptData, "test_dataloader", few)
    before = set(place.glob("runs/evaluate/*"))
    assert words[0] == "recipes/evaluate.py"
    run_tool(evaluate, words[1:])
    (folder,) = set(place.glob("runs/evaluate/*")) - before
    told = json.loads((folder / "evaluation.json").read_text())
    assert all(own["greedy_accuracy"]["counted"] in (2, 4) for own in told["tasks"].values())


NEW = [words for words in commands("components/run-folder.md") if words[1] != "fit" or "samples" in words[-1]]


@pytest.mark.long
@pytest.mark.parametrize("words", NEW, ids=" ".join)
def test_commands_about_evaluation_on_the_page_of_the_run_folder(place, monkeypatch, capsys, words):
    monkeypatch.chdir(place)
    monkeypatch.setattr(PromptData, "test_dataloader", few)
    short = [*SHORT, "--trainer.max_steps=1"] if words[1] == "fit" else []
    cli(RECIPES["asyppo"], *words[1:], *short, "--model.scoring.workers=0", "--trainer.enable_progress_bar=false")
    assert re.search(r"^(validation|test) samples", capsys.readouterr().out, re.MULTILINE)


def test_the_page_evaluate_has_commands_and_runs_its_example():
    assert len(commands("evaluate.md")) == 5
    (example,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "evaluate.md").read_text(), re.MULTILINE | re.DOTALL)
    for name in set(re.findall(r"import (.*)", example)):
        for one in name.split(", "):
            assert any(hasattr(importlib.import_module(f"rl4llm.{m}"), one) for m in ("data", "evaluation"))
    exec(example, {})
