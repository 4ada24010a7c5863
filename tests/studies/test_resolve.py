"""Arms are parsed as their recipes do, all before the first run."""

from pathlib import Path

import pytest
import yaml

from rl4llm.checks import UsageError
from rl4llm.progress import progress
from rl4llm.studies import Arm, resolve
from rl4llm.studies.folders import command_start

TOY = str(Path(__file__).parents[1] / "runs/commands.py")


def toy(**arms):
    return [Arm(name, TOY, tuple(flags)) for name, flags in arms.items()]


def test_an_arm_has_the_whole_configuration_of_its_recipe():
    full, slow = resolve(toy(full=[], slow=["--model.lr=0.5", "--trainer.max_steps=3"]))
    assert yaml.safe_load(full.config)["model"]["lr"] == 0.01
    assert yaml.safe_load(full.config)["trainer"]["max_steps"] == 10
    assert yaml.safe_load(slow.config)["model"]["lr"] == 0.5
    assert yaml.safe_load(slow.config)["trainer"]["max_steps"] == 3
    assert (full.folder_name, full.script, full.one_device) == ("toy", Path(TOY), True)
    assert not resolve(toy(two=["--trainer.devices=2"]))[0].one_device


def test_the_command_that_resolves_arms_keeps_the_word():
    progress.speak("report", {})
    try:
        resolve(toy(full=[], slow=["--model.lr=0.25"]))
        assert progress.name == "report"
    finally:
        progress.hush()


def test_a_recipe_that_was_copied_keeps_its_function_and_its_own_defaults(tmp_path, monkeypatch):
    text = Path(TOY).read_text()
    copy = tmp_path / "mine.py"
    copy.write_text(text.replace("lr: float = 0.01", "lr: float = 0.03"))
    monkeypatch.chdir(tmp_path)
    first, second = resolve([*toy(full=[]), Arm("mine", "mine.py")])
    assert (first.folder_name, second.folder_name) == ("toy", "toy")
    assert yaml.safe_load(second.config)["model"]["lr"] == 0.03
    assert command_start(second) == ["python", "mine.py"]


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": [], "b": ["--model.lrr=1"]}, "arm 'b': unknown flag --model.lrr; did you mean --model.lr?"),
        ({"a": ["--model.lr=x"]}, "arm 'a': --model.lr: expected a number, got x"),
        ({"a": ["--x=1"], "b": [], "c": ["--y"]}, "arm 'a': unknown flag --x.*refused as well: c."),
        ({"a": [], "b": ["--model.lr=0.01"]}, "'a' and 'b' have the same configuration"),
        ({"a": ["--seed_everything=3"]}, "--seed_everything cannot be set in an arm; give the seeds with --seeds"),
        ({"a": ["--trainer.default_root_dir=x"]}, "give the folder with --out"),
        ({"a": ["--ckpt_path=last"]}, "resumes unfinished runs itself"),
        ({"a": ["--trainer.logger=false"]}, "the report reads what the default loggers write"),
        ({"a": ["--trainer.fast_dev_run=2"]}, "for a rehearsal"),
        ({"a": ["--print_config"]}, "run the recipe itself"),
        ({"a": ["--help"]}, "run the recipe itself"),
        ({"a": ["--config=no_such.yaml"]}, "--config: there is no file '.*no_such.yaml'; give"),
        ({"a": ["--trainer.strategy=nonsense"]}, "nonsense"),
    ],
)
def test_a_refused_arm_is_one_line_with_its_name(arms, message):
    with pytest.raises(UsageError, match=message) as refused:
        resolve(toy(**arms))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("asypo", "did you mean asyppo"),
        ("evaluate", "evaluate trains nothing"),
        ("no_such.py", "there is no recipe or command 'no_such.py'"),
    ],
)
def test_what_is_no_recipe_is_refused(recipe, message):
    with pytest.raises(UsageError, match=message):
        resolve([Arm("a", recipe)])


def test_a_file_that_runs_no_recipe_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("x = 1 / 0\n")
    for name, message in (("empty", "runs no RecipeCLI"), ("broken", "division by zero")):
        with pytest.raises(UsageError, match=message):
            resolve([Arm("a", str(tmp_path / f"{name}.py"))])


def test_settings_in_a_file_are_settings(tmp_path):
    (tmp_path / "lr.yaml").write_text("model:\n  lr: 0.5\n")
    with pytest.raises(UsageError, match="have the same configuration"):
        resolve(toy(a=[f"--config={tmp_path}/lr.yaml"], b=["--model.lr=0.5"]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.critics=null"], "GAE needs values, but there are no critics"),
        (["--model.gate.fraction=2"], r"fraction must be in \[0, 1\)"),
        (["--data.task.shortest=0"], "shortest must be a whole number of at least 1"),
        (["--model.critics.size=9"], "more critics"),
        (["--model.gate=NoSuchGate"], "NoSuchGate"),
        (["--model.policy=./nothing"], "nothing"),
    ],
)
def test_parts_that_do_not_fit_together_are_found_before_any_run(flags, message):
    with pytest.raises(UsageError, match=message):
        resolve([Arm("a", "asyppo", tuple(flags))])
