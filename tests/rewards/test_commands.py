"""Rewards on the command line: every command of the page, and what is said where a reward is misspelt."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from rl4llm.rewards import Batched, ExactMatch, NumericMatch, WeightedSum
from tests.recipes.helpers import SHORT, cli, config, parser_of

PAGE = Path("docs/components/rewards.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
MINE = """
def digits_match(prompt, response, answer):
    return float(response.strip() == answer)

def from_trl(completions, answer, **columns):
    return [float(text.endswith(wanted)) for text, wanted in zip(completions, answer)]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the reader's own module and data, from which commands run."""
    root = Path.cwd()
    (tmp_path / "mine.py").write_text(MINE)
    rows = [{"prompt": f"{i}=", "answer": str(i)} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipes").symlink_to(root / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def built(flags):
    """The reward that flags build, also after they were saved and read again."""
    parser = parser_of("grpo")
    saved = config("grpo", *flags)
    found = [parser.instantiate_classes(parser.parse_args(["fit", *given])) for given in (flags, _saved(saved))]
    rewards = [one["fit"]["data"].task.reward for one in found]
    assert rewards[0] == rewards[1]
    return rewards[0]


def _saved(tree):
    Path("saved.yaml").write_text(yaml.safe_dump(tree))
    return ["--config=saved.yaml"]


def test_the_page_has_commands():
    assert len(COMMANDS) >= 5
    assert all(command.startswith("python recipes/grpo.py fit") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.long
def test_every_command_of_the_page_runs(command, here, capsys):
    if "MathVerify" in command:
        pytest.importorskip("math_verify")
    recipe = sys.modules["recipes.grpo"].grpo
    own = [flag for flag in SHORT if "JsonLines" not in command or "held_out_size" not in flag]
    limits = ["--model.responses_per_prompt=2", "--model.scoring.workers=2"]
    cli(recipe, *shlex.split(command)[2:], *own, *limits)
    assert "could not score" not in capsys.readouterr().err


REWARDS = [
    (["--data.task.reward=NumericMatch", "--data.task.reward.where=last"], NumericMatch("last")),
    (["--data.task.reward=rl4llm.rewards.ExactMatch", "--data.task.reward.after=:"], ExactMatch(":")),
    (["--data.task.reward=mine:digits_match"], "digits_match"),
    (["--data.task.reward=mine.digits_match"], "digits_match"),
    (["--data.task.reward=Batched", "--data.task.reward.function=mine:from_trl"], Batched),
    (
        [
            "--data.task.reward=WeightedSum",
            "--data.task.reward.components={correct: NumericMatch, mine: 'mine:digits_match'}",
            "--data.task.reward.weights={mine: -1}",
        ],
        WeightedSum,
    ),
]


@pytest.mark.parametrize(("flags", "reward"), REWARDS)
def test_a_reward_is_named_by_its_class_or_its_path(flags, reward, here):
    found = built(flags)
    if isinstance(reward, type):
        assert isinstance(found, reward)
    else:
        assert getattr(found, "__name__", found) == reward


FAULTS = [
    (["--data.task.reward=NumericMach"], "there is no Verifier named 'NumericMach'; did you mean NumericMatch?"),
    (["--data.task.reward=mine:nothing"], "--data.task.reward: module 'mine' has no attribute 'nothing'"),
    (["--data.task.reward=nowhere:nothing"], "--data.task.reward: No module named 'nowhere'"),
    (["--data.task.reward=NumericMatch", "--data.task.reward.tolerence=1"], "has no setting 'tolerence'; it has where"),
    (["--data.task.reward=WeightedSum"], "needs components"),
    (["--data.task.reward=Format"], "needs pattern"),
]


@pytest.mark.parametrize(("flags", "message"), FAULTS)
def test_a_misspelt_reward_is_one_line(flags, message, here, capsys):
    with pytest.raises(SystemExit) as left:
        parser_of("grpo").parse_args(["fit", *flags])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
