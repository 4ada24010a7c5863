"""A misspelt class gets a suggestion, a class of the wrong kind is told what fits, and `--SLOT.help` lists both."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.asyppo import asyppo
from rl4llm.cli import RecipeCLI
from rl4llm.cli_choices import choices_text, fitting, near_names
from rl4llm.gates import Gate

NESTED = "--model.entropy=EntropyBonus --model.entropy.where"
MISSPELT = {
    "--model.gate=AgreementGat": ("Gate", "AgreementGate", "--model.gate"),
    "--model.gate=agreementgate": ("Gate", "AgreementGate", "--model.gate"),
    "--model.gate.class_path=AgreementGat": ("Gate", "AgreementGate", "--model.gate"),
    "--model.critics=MiniCritic": ("ValueSpec", "MiniCritics", "--model.critics"),
    "--model.critics.head=LinearHed": ("Head", "LinearHead", "--model.critics=MiniCritics --model.critics.head"),
    "--model.entropy.where=DivergenceFilte": ("Gate", "DivergenceFilter", NESTED),
    "--model.optimizer=AdamWW": ("Optimizer", "AdamW", "--model.optimizer"),
    "--model.whitening=Whitn": ("Whiten", "Whiten", "--model.whitening"),
    "--model.engine=vllm": ("EngineSpec", "VLLM", "--model.engine"),
    "--model.policy.adapter=Lora": ("Adapter", "LoRA", "--model.policy=Pretrained --model.policy.adapter"),
    "--data.task=JsonLine": ("Task", "JsonLines", "--data.task"),
    "--data.task.reward=MathVerif": ("Verifier", "MathVerify", "--data.task=AbsoluteDifference --data.task.reward"),
    "--trainer.logger=TensorBordLogger": ("Logger", "TensorBoardLogger", "--trainer.logger"),
    "--trainer.callbacks=EarlyStoping": ("Callback", "EarlyStopping", "--trainer.callbacks"),
}
PPO_CLIP = "--model.gate: 'PPOClip' is a PolicyObjective, and a Gate is needed here."
WRONG = {
    "--model.gate=PPOClip": PPO_CLIP,
    "--model.gate=rl4llm.objectives.PPOClip": PPO_CLIP,
    "--model.optimizer=GAE": "--model.optimizer: 'GAE' is an AdvantageEstimator, and an Optimizer is needed here.",
    "--model.advantage=torch.optim.Adam": "--model.advantage: 'torch.optim.Adam' is not an AdvantageEstimator.",
    "--model.advantage=null": "--model.advantage: 'null' is not an AdvantageEstimator.",
    "--model.gate=3": "--model.gate: '3' is not the name of a class.",
    "--trainer.plugins=Foo": "--trainer.plugins: there is no Precision or ClusterEnvironment or CheckpointIO or ",
    "--model.gate=rl4llm.gates.AgreementGat": "--model.gate: rl4llm.gates.AgreementGat cannot be imported (module "
    "'rl4llm.gates' has no attribute 'AgreementGat'); did you mean AgreementGate or agreement_gate?",
}


class Parsing(RecipeCLI):
    """Builds the parser of a command and leaves."""

    def parse_arguments(self, parser, args):
        """Keep the parser."""
        Parsing.made = parser
        raise SystemExit(0)


@pytest.fixture(scope="module")
def parser():
    """The parser of `asyppo`."""
    with pytest.raises(SystemExit):
        Parsing(asyppo, args=["fit"])
    return Parsing.made


@pytest.fixture
def told(parser, capsys):
    """Returns the one line about flags that are refused."""

    def parse(*flags):
        with pytest.raises(SystemExit) as left:
            parser.parse_args(["fit", *flags])
        lines = capsys.readouterr().err.splitlines()
        assert left.value.code == 2
        assert len(lines) == 1
        return lines[0]

    return parse


@pytest.fixture
def shown(parser, capsys):
    """Returns what a help flag prints."""

    def parse(*flags):
        with pytest.raises(SystemExit) as left:
            parser.parse_args(["fit", *flags])
        assert left.value.code == 0
        return capsys.readouterr().out

    return parse


@pytest.mark.parametrize("flag", MISSPELT)
def test_a_misspelt_class_gets_the_near_name_and_a_flag_that_lists_it(flag, told, shown):
    kind, near, slot = MISSPELT[flag]
    name, given = slot.split()[-1], flag.partition("=")[2]
    line = f"error: {name}: there is no {kind} named '{given}'; did you mean {near}? {slot}.help lists the choices."
    assert told(flag) == line
    assert near in re.findall(r"^  (\w+)", shown(*shlex.split(f"{slot}.help")), re.MULTILINE)


@pytest.mark.parametrize("flag", WRONG)
def test_a_class_of_the_wrong_kind_is_told_which_kinds_fit(flag, told):
    line = told(flag)
    assert line.startswith(f"error: {WRONG[flag]}")
    assert line.endswith(f"{flag.partition('=')[0]}.help lists the choices.")


@pytest.mark.parametrize("slot", ["where: DivergenceFilte", "where: {class_path: DivergenceFilte}"])
def test_a_file_is_read_like_flags(slot, tmp_path, told):
    file = tmp_path / "mine.yaml"
    file.write_text(f"model:\n  entropy:\n    class_path: EntropyBonus\n    init_args: {{{slot}}}\n")
    line = told(f"--config={file}")
    assert line.startswith("error: --model.entropy.where: there is no Gate named 'DivergenceFilte'; did you mean Div")


@pytest.mark.parametrize("help_flag", ["--model.gate.help=AgreementGat", f"{NESTED}.help=AgreementGat"])
def test_a_misspelt_class_in_a_help_flag_gets_the_same(help_flag, told):
    slot = help_flag.split()[-1].partition(".help")[0]
    line = told(*help_flag.split())
    assert line.startswith(f"error: {slot}: there is no Gate named 'AgreementGat'; did you mean AgreementGate?")


def test_help_of_one_class_shows_its_settings_still(shown):
    assert "--model.gate.fraction" in shown("--model.gate.help=AgreementGate")


def test_the_list_fits_80_columns_and_names_every_class():
    lines = choices_text([Gate]).splitlines()
    assert max(map(len, lines)) < 80
    assert "  AgreementGate       Gate that drops the tokens where the critics agree most." in lines


def test_classes_without_an_import_path_are_left_out():
    made = type("MadeAdamW", (torch.optim.AdamW,), {"__module__": "lightning.pytorch.core.optimizer"})
    assert "MadeAdamW" not in choices_text([torch.optim.AdamW])
    assert made.__name__ not in fitting([torch.optim.Optimizer])


def test_only_names_that_are_about_as_near_as_the_nearest_are_suggested():
    assert near_names("CSVLoger", ["CSVLogger", "CometLogger", "WandbLogger"]) == ["CSVLogger"]
    assert near_names("adamw", ["AdamW", "Adam"]) == ["AdamW"]
    assert near_names("zzz", ["AdamW"]) == []
    assert near_names("ab1", ["ab2", "ab3"]) == ["ab3", "ab2"]


def test_a_value_among_a_few_gets_the_nearest(told):
    line = told("--model.critics.inputs=prefx")
    assert line == "error: --model.critics.inputs: expected one of prefix, prompt; got prefx. Did you mean prefix?"
    assert told("--trainer.precision=bf16mixed").endswith("got bf16mixed. Did you mean bf16-mixed?")


@pytest.mark.long
def test_a_tool_suggests_as_recipes_do(tmp_path):
    command = [sys.executable, Path(__file__).parents[2] / "recipes/evaluate.py", "--model=x", "--task=JsonLine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "error: --task: there is no Task named 'JsonLine'; did you mean JsonLines?" in done.stderr
    assert done.returncode == 2
