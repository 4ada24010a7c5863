"""Another class in a slot starts from its own defaults; what a recipe does not name is reachable all the same."""

import importlib
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest
import yaml
from jsonargparse import ArgumentParser, class_from_function

from rl4llm.checks import UsageError
from rl4llm.cli import RecipeCLI
from rl4llm.cli_parser import RecipeParser, classes_first
from rl4llm.data import PromptData
from tests.recipes import slots
from tests.recipes.slots import (
    KL,
    Agreement,
    Divergence,
    Draws,
    Entropy,
    Local,
    Mini,
    Named,
    Random,
    Remote,
    Rollout,
    Sampling,
    Symmetric,
    Updates,
)

HERE = "tests.recipes.slots."


def parser(kind=RecipeParser):
    made = kind()
    made.add_argument("--config", action="config")
    made.add_class_arguments(class_from_function(slots.recipe), "model", fail_untyped=False, sub_configs=True)
    return made


def slots_of(made, config):
    found = dict(made.instantiate(config).model.slots)
    for name in ("optimizer",):
        built = found[name]([])
        found[name] = (type(built).__name__, built.lr, built.decay)
    return {**found, "entropy": found["penalties"].get("entropy")}


def parsed(*flags):
    made = parser()
    return slots_of(made, made.parse_args(list(flags)))


def from_file(tmp_path, text, *flags):
    file = tmp_path / "given.yaml"
    file.write_text(text)
    return parsed(f"--config={file}", *flags)


DEFAULTS = parsed()
ROLLOUT = DEFAULTS["rollout"]

SWAPS = [
    ({"gate": "Random"}, {"gate": Random()}),
    ({"gate": HERE + "Random"}, {"gate": Random()}),
    ({"gate": {"class_path": "Random", "init_args": {"seed": 3}}}, {"gate": Random(seed=3)}),
    ({"entropy": "KL"}, {"entropy": KL()}),
    ({"critics": "Symmetric"}, {"critics": Symmetric()}),
    ({"optimizer": {"class_path": "Plain", "init_args": {"lr": 1.0}}}, {"optimizer": ("Plain", 1.0, 0.0)}),
    (
        {"entropy": {"init_args": {"where": {"class_path": "Agreement"}}}},
        {"entropy": Entropy(1e-3, where=Agreement())},
    ),
    (
        {"rollout": {"engine": "Remote"}},
        {"rollout": Rollout(Sampling(temperature=0.7), Remote(), Draws(5))},
    ),
]


def as_flags(tree, prefix="--model"):
    """`{"gate": {"class_path": "Random", "init_args": {"seed": 3}}}` as `--model.gate=Random --model.gate.seed=3`."""
    for key, value in tree.items():
        if key == "init_args":
            yield from as_flags(value, prefix)
        elif key == "class_path":
            yield f"{prefix}={value}"
        elif isinstance(value, dict):
            yield from as_flags(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}={value}"


@pytest.mark.parametrize(("tree", "changed"), SWAPS, ids=lambda x: str(x)[:50])
def test_another_class_starts_from_its_own_defaults(tree, changed, tmp_path):
    found = {name: value for name, value in parsed(*as_flags(tree)).items() if name != "penalties"}
    assert found == {name: changed.get(name, value) for name, value in DEFAULTS.items() if name != "penalties"}


@pytest.mark.parametrize(("tree", "changed"), SWAPS, ids=lambda x: str(x)[:50])
def test_a_file_means_what_the_flags_mean(tree, changed, tmp_path):
    assert from_file(tmp_path, yaml.safe_dump({"model": tree})) == parsed(*as_flags(tree))


@pytest.mark.parametrize(("tree", "changed"), SWAPS, ids=lambda x: str(x)[:50])
def test_flags_of_one_slot_may_stand_in_any_order(tree, changed):
    flags = list(as_flags(tree))
    assert parsed(*flags[::-1]) == parsed(*flags)


def test_a_flag_after_a_file_starts_anew_too(tmp_path):
    text = "model: {gate: {class_path: Random, init_args: {fraction: 0.9, seed: 3}}}"
    assert from_file(tmp_path, text)["gate"] == Random(0.9, 3)
    assert from_file(tmp_path, text, "--model.gate=Divergence")["gate"] == Divergence()
    assert from_file(tmp_path, text, "--model.gate.fraction=0.7")["gate"] == Random(0.7, 3)


def test_a_file_after_a_flag_has_the_last_word(tmp_path):
    file = tmp_path / "given.yaml"
    file.write_text("model: {gate: Random}")
    assert parsed("--model.gate.fraction=0.9", f"--config={file}")["gate"] == Random()
    assert parsed("--model.gate.inverse=true", f"--config={file}", "--model.gate.seed=1")["gate"] == Random(seed=1)


def test_settings_of_a_class_that_is_replaced_are_gone():
    flags = ["--model.gate=Random", "--model.gate.fraction=0.9", "--model.gate=Divergence"]
    assert parsed(*flags)["gate"] == Divergence()
    assert parsed(*flags, "--model.gate.fraction=0.1")["gate"] == Divergence(0.1)


def test_the_same_class_named_again_changes_nothing():
    assert parsed("--model.gate=Agreement") == DEFAULTS
    assert parsed(f"--model.gate={HERE}Same") == DEFAULTS
    assert parsed("--model.gate=Agreement", "--model.gate.inverse=true")["gate"] == Agreement(0.05, True)


@pytest.mark.parametrize(
    ("flag", "slot", "value"),
    [
        ("gate.inverse=true", "gate", Agreement(0.05, True)),
        ("critics.size=7", "critics", Mini("small", 7)),
        ("entropy.coef=1", "entropy", Entropy(1.0, Divergence(0.4))),
        ("entropy.where.fraction=0.1", "entropy", Entropy(1e-3, Divergence(0.1))),
        ("optimizer.decay=0.3", "optimizer", ("Adaptive", 1e-5, 0.3)),
        ("updates.epochs=3", "updates", Updates(3, 4)),
        ("rollout.sampling.top_p=0.5", "rollout", Rollout(Sampling(0.7, 0.5), Local(16), Draws(5))),
        ("rollout.engine.top=3", "rollout", Rollout(Sampling(0.7), Local(16, 3), Draws(5))),
        ("rollout.draws.most=2", "rollout", Rollout(Sampling(0.7), Local(16), Draws(2))),
        ("rollout.draws=null", "rollout", Rollout(Sampling(0.7), Local(16), None)),
        ("rollout.responses=2", "rollout", Rollout(Sampling(0.7), Local(16), Draws(5), 2)),
    ],
)
def test_one_setting_leaves_the_others_as_the_recipe_has_them(flag, slot, value):
    found = parsed(f"--model.{flag}")
    assert found[slot] == value
    assert {k: v for k, v in found.items() if k not in (slot, "penalties")} == {
        k: v for k, v in DEFAULTS.items() if k not in (slot, "penalties")
    }


# --- a text that stands for a value -----------------------------------------------------------------------------------

HALF = Named("digits", dtype="half")


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["policy=Q"], "Q"),
        (["policy.dtype=half"], HALF),
        (["policy.dtype=half", "policy.layers=2"], Named("digits", "half", 2)),
        (["policy=org/Q-0.6B", "policy.dtype=half"], Named("org/Q-0.6B", "half")),
        (["policy.dtype=half", "policy=org/Q-0.6B"], Named("org/Q-0.6B", "half")),
        (["policy.name=Q", "policy.dtype=half"], Named("Q", "half")),
        (["policy.dtype=half", "policy.name=Q"], Named("Q", "half")),
        (["policy={name: Q, dtype: half}"], Named("Q", "half")),
        (["policy={dtype: half}"], HALF),
    ],
)
def test_a_text_takes_the_other_settings_of_what_it_stands_for(flags, value):
    assert parsed(*(f"--model.{flag}" for flag in flags))["policy"] == value


def test_a_text_within_a_slot_does_too(tmp_path):
    half = Mini(Named("small", dtype="half"), size=4)
    assert parsed("--model.critics.model.dtype=half")["critics"] == half
    assert parsed("--model.critics.model=Q", "--model.critics.model.dtype=half")["critics"].model == Named("Q", "half")
    text = "model: {policy: {dtype: half}, critics: {init_args: {model: {dtype: half}}}}"
    found = from_file(tmp_path, text)
    assert (found["policy"], found["critics"]) == (HALF, half)
    assert from_file(tmp_path, text, "--model.policy=Q")["policy"] == "Q"
    assert from_file(tmp_path, text, "--model.policy.layers=2")["policy"] == Named("digits", "half", 2)


# --- what was saved ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model.gate=Random", "--model.gate.seed=3"],
        ["--model.entropy.where=Agreement", "--model.critics=Symmetric"],
        ["--model.entropy=null", "--model.entropy.coef=1"],
        ["--model.policy.dtype=half", "--model.critics.model.layers=1"],
        ["--model.optimizer=Plain", "--model.optimizer.lr=0.1", "--model.rollout.engine=Remote"],
        ["--model.correction=Random", "--model.critic_updates.epochs=3"],
    ],
    ids=str,
)
def test_a_saved_configuration_gives_the_same_again(flags, tmp_path):
    made = parser()
    config = made.parse_args(flags)
    found = slots_of(made, config)
    again = from_file(tmp_path, made.dump(config, skip_unset=False))
    assert again == found


# --- what a recipe does not name --------------------------------------------------------------------------------------


def test_every_slot_that_a_recipe_does_not_name_is_a_flag():
    found = parsed("--model.correction=Random", "--model.correction.seed=3", "--model.critic_updates.epochs=3")
    assert found["correction"] == Random(seed=3)
    assert found["critic_updates"] == Updates(epochs=3)
    assert "--model.penalties" not in parser().format_help()  # the recipe gives them itself


def test_the_help_of_standard_slots_is_written_once():
    made = parser()
    made.describe("model", slots.recipe, slots.compose)
    shown = " ".join(made.format_help().split())
    assert "--model.gate GATE Where the critics agree most." in shown
    assert "--model.critics CRITICS Where values come from." in shown
    assert "--model.correction CORRECTION Between engine and trainer." in shown
    assert "Of each critic: --model.critic_updates" in shown


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["optimizer=Plain"], "--model.optimizer=Plain needs lr; add --model.optimizer.lr=..."),
        (["gate.inverse=true", "gate=Random"], "--model.gate=Random has no setting 'inverse'; it has fraction, seed."),
        (["entropy.where.sed=1"], "--model.entropy.where=Divergence has no setting 'sed'; it has fraction."),
        (["optimizer.rate=1"], "--model.optimizer=Adaptive has no setting 'rate'; it has lr, decay."),
        (["rollout.engine.row=1"], "--model.rollout.engine=Local has no setting 'row'; it has rows, top."),
        (["policy.typ=half"], "--model.policy=Named has no setting 'typ'; it has name, dtype, layers."),
        (["critics=Symmetric", "critics.model.dtype=half"], "--model.critics.model=Named needs name; "),
        (["correction.fraction=0.1"], "--model.correction holds no class whose settings could be changed; n"),
        (["entropy.where.fraction=much"], "--model.entropy.where.fraction: expected a number, got much."),
        (
            ["entropy.where=Divergenc"],
            "--model.entropy.where: there is no Gate named 'Divergenc'; did you mean Divergence? "
            "--model.entropy=Entropy --model.entropy.where.help lists the choices.",
        ),
        (["entropy.where=no.Such"], "--model.entropy.where: no.Such cannot be imported (No module named 'no')"),
        ([f"gate={HERE}KL"], f"--model.gate: '{HERE}KL' is not a Gate. --model.gate.help lists the choices."),
        (["optimizer.lr=fast"], "--model.optimizer.lr: expected a number, got fast."),
        (["gate="], "--model.gate has an empty value; write --model.gate=null to leave the slot empty."),
        ([f"gate={HERE}Unfinished"], f"--model.gate: {HERE}Unfinished does not define __call__; define it, or"),
        (["gate=Beginning"], "--model.gate: there is no Gate named 'Beginning'. --model.gate.help lists the choices."),
        (["rollout.sampling.top=1"], "unknown flag --model.rollout.sampling.top; did you mean --model.rollout.sampl"),
    ],
    ids=lambda x: str(x)[:50],
)
def test_an_error_is_one_line_that_names_the_innermost_slot(flags, line, capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args([f"--model.{flag}" for flag in flags])
    shown = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2
    assert len(shown) == 1
    assert shown[0].startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--lr=1", "unknown flag --lr; did you mean --model.optimizer.lr? --help lists all flags."),
        ("--top=1", "unknown flag --top; did you mean --model.rollout.engine.top? --help lists all flags."),
        ("--model.gat=null", "unknown flag --model.gat; did you mean --model.gate? --help lists all flags."),
        ("model.gate=null", "model.gate=null is not a flag; write --model.gate=null."),
        ("-model.gate=null", "-model.gate=null is not a flag; write --model.gate=null."),
        ("fast", "'fast' is not a flag; flags begin with two dashes, such as --trainer.max_steps=100."),
        ("--model.gate", "--model.gate has no value; write --model.gate=VALUE."),
        ("--config=missing.yaml", "--config: there is no file '"),
        ("--config=.", "--config: there is no file '"),
    ],
)
def test_a_word_that_is_no_flag_is_one_line(word, line, capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse_args([word])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model: {gate: [", "--config: the file is not valid YAML ("),
        ("- 1", "--config: the file begins with - 1; it must hold settings by name"),
        ("", "--config: the file is empty; it must hold settings by name"),
        ("model: {gate: Divergenc}", "--model.gate: there is no Gate named 'Divergenc'; did you mean Divergence?"),
    ],
)
def test_a_broken_file_is_one_line(text, line, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        from_file(tmp_path, text)
    shown = capsys.readouterr().err
    assert left.value.code == 2
    assert shown.startswith(f"error: {line}")
    assert shown.count("\n") == 1


def test_a_class_may_be_named_as_module_and_name():
    assert parsed(f"--model.gate={HERE[:-1]}:Random")["gate"] == Random()


def test_without_our_parser_the_library_is_as_it_was():
    """And as its users know it: should this fail, jsonargparse has learnt the rule, and `rules_of_slots` may go."""
    parsed("--model.gate=Random")
    theirs = parser(ArgumentParser)
    assert slots_of(theirs, theirs.parse_args(["--model.gate=Random"]))["gate"] == Random(fraction=0.05)
    with pytest.raises(SystemExit):
        parser().parse_args(["--model.gate=Nope"])
    assert slots_of(theirs, theirs.parse_args(["--model.gate=Random"]))["gate"] == Random(fraction=0.05)


def test_another_version_of_the_library_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(jsonargparse, "__version__", "4.99.0")
    with pytest.raises(UsageError, match=r"jsonargparse 4\.99\.0 is installed.*pip install 'jsonargparse\[signatures"):
        parser().parse_args([])


def test_other_flags_stay_where_they_are():
    flags = ["fit", "-c", "a.yaml", "--a.b=1", "--x", "1", "--a=K", "--y=2", "--a.c", "2", "--print_config"]
    assert classes_first(flags) == [*flags[:3], "--x", "1", "--a=K", "--a.b=1", *flags[7:]]
    for last in ("--a=null", "--a={class_path: K}", "--a=file.yaml"):
        assert classes_first(["--a.b=1", last]) == ["--a.b=1", last]


# --- the command line as it is ----------------------------------------------------------------------------------------

MINE = """
from dataclasses import dataclass
from rl4llm.data import Example, Task
from rl4llm.rewards import Reward

def exact(prompt, response, answer):
    return float(response == answer)

@dataclass(frozen=True)
class Mine(Task):
    train_size: int = 7
    reward: Reward = exact

    def examples(self, split):
        return [Example(f"{index}=", str(index), index) for index in range(self.train_size)]

    def traits(self, response):
        return {}
"""


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    grpo = importlib.import_module("recipes.grpo").grpo

    def run(*flags, before=()):
        args = [*before, "fit", "--print_config", *flags]
        with pytest.raises(SystemExit) as left:
            RecipeCLI(grpo, PromptData, args=args, data_defaults={"prompts_per_step": 4})
        assert left.value.code == 0
        return capsys.readouterr().out

    yield run
    sys.modules.pop("mine", None)


def test_a_task_of_ones_own_is_scored_by_its_own_reward(printed, tmp_path):
    settings = {"train_size": 7, "reward": "mine.exact"}
    assert yaml.safe_load(printed("--data.task=mine.Mine"))["data"]["task"]["init_args"] == settings
    (tmp_path / "whole.yaml").write_text("fit: {data: {task: {class_path: mine.Mine}}}")
    assert yaml.safe_load(printed(before=["--config=whole.yaml"]))["data"]["task"]["init_args"] == settings
    (tmp_path / "given.yaml").write_text("data: {task: {class_path: mine.Mine}}")
    saved = printed("--config=given.yaml")
    assert yaml.safe_load(saved)["data"]["task"]["init_args"] == settings
    (tmp_path / "saved.yaml").write_text(saved)
    assert printed("--config=saved.yaml") == saved


def test_a_task_that_needs_a_reward_says_so(printed, tmp_path, capsys):
    grpo = importlib.import_module("recipes.grpo").grpo
    with pytest.raises(SystemExit) as left:
        RecipeCLI(grpo, PromptData, args=["fit", "--data.task=JsonLines", "--data.task.train=given.jsonl"])
    assert left.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown == "error: --data.task=JsonLines needs reward; add --data.task.reward=..."


def test_the_trainers_own_parts_are_named_as_ever(printed):
    flags = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=there", "--trainer.strategy=ddp"]
    callbacks = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x"]
    more = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=3"]
    trainer = yaml.safe_load(printed(*flags, *callbacks, *more))["trainer"]
    assert trainer["logger"]["init_args"]["save_dir"] == "there"
    assert trainer["strategy"] == "ddp"
    assert [part["init_args"].get("monitor") for part in trainer["callbacks"]] == ["x", None]
    assert trainer["callbacks"][1]["init_args"]["save_top_k"] == 3


@pytest.mark.long
@pytest.mark.parametrize("name", ["BatchMean", "Tether", "ExplainedVarianceSwitch", "Readiness"])
def test_value_sources_that_load_on_first_use_are_known_by_their_names(name):
    """In a process of its own: here other tests have loaded them."""
    critics = [f"--model.critics={name}", "--model.critics.critics=SymmetricCritic"]
    command = [
        sys.executable,
        str(Path(__file__).parents[2] / "recipes" / "grpo.py"),
        "fit",
        *critics,
        "--print_config",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chosen = yaml.safe_load(done.stdout)["model"]["critics"]
    assert chosen["class_path"] == f"rl4llm.critics.{name}"
    assert chosen["init_args"]["critics"]["class_path"] == "rl4llm.critics.SymmetricCritic"
