"""Arms from recipes, mappings and grids."""

import pytest

from rl4llm.checks import UsageError
from rl4llm.command.recipes import recipes_folder
from rl4llm.studies import Arm, flags_of_study, slurm_script, study_arms


def test_without_arms_every_recipe_is_one():
    assert study_arms(["ppo", "mine.py"], {}, {}, ["--x=1"]) == [
        Arm("ppo", "ppo", ("--x=1",)),
        Arm("mine.py", "mine.py", ("--x=1",)),
    ]


def test_an_arm_is_a_list_nothing_or_a_choice_with_its_own_recipe():
    arms = {"a": None, "b": [], "c": "--y=2 --z='1 2'", "d": ["--y=3"], "e": {"recipe": "grpo", "flags": ["--y=4"]}}
    assert study_arms(["ppo"], arms, {}, ["--x=1"]) == [
        Arm("a", "ppo", ("--x=1",)),
        Arm("b", "ppo", ("--x=1",)),
        Arm("c", "ppo", ("--x=1", "--y=2", "--z=1 2")),
        Arm("d", "ppo", ("--x=1", "--y=3")),
        Arm("e", "grpo", ("--x=1", "--y=4")),
    ]


def test_a_grid_is_a_product_and_follows_the_arms():
    grid = {"model.gate.fraction": [0, 0.05], "--data.seed": [None, True], "other": ["text"]}
    found = study_arms(["asyppo"], {"first": []}, grid)
    assert [arm.name for arm in found] == [
        "first",
        "gate.fraction=0, data.seed=null, other=text",
        "gate.fraction=0, data.seed=true, other=text",
        "gate.fraction=0.05, data.seed=null, other=text",
        "gate.fraction=0.05, data.seed=true, other=text",
    ]
    assert found[2].flags == ("--model.gate.fraction=0", "--data.seed=true", "--other=text")


def test_with_several_recipes_arms_exist_once_per_recipe():
    found = study_arms(["ppo", "grpo"], {"a": [], "b": {"recipe": "rloo"}}, {})
    assert [(arm.name, arm.recipe) for arm in found] == [("ppo a", "ppo"), ("grpo a", "grpo"), ("b", "rloo")]


@pytest.mark.parametrize(
    ("recipes", "arms", "grid", "flags", "message"),
    [
        ([], {}, {}, [], "there is nothing to run"),
        ([], {"a": []}, {}, [], "arm 'a' has no recipe"),
        (["ppo"], {"a": ["model.gate=null"]}, {}, [], "arm 'a' holds 'model.gate=null', which is no flag"),
        (["ppo"], {"a": ["--model.gate", "null"]}, {}, [], "arm 'a' holds 'null', which is no flag"),
        (["ppo"], {"a": {"flags": ["x"]}}, {}, [], "arm 'a' holds 'x', which is no flag"),
        (["ppo"], {"a": []}, {}, ["max_steps=3"], "--flags holds 'max_steps=3', which is no flag"),
        (["ppo"], {}, {"x": []}, [], "--grid gives .* for x; give a list"),
        (["ppo", "ppo"], {}, {}, [], "two arms are named 'ppo'"),
        (["ppo"], {"x=1": []}, {"x": [1]}, [], "an arm has the name of the grid point 'x=1'"),
        (["ppo"], {" ": []}, {}, [], "the name of an arm is empty"),
        (["ppo"], {"a": "--x='1"}, {}, [], "arm 'a': its line of flags cannot be read"),
        (["ppo"], {"a": 3}, {}, [], "arm 'a' is 3; give a list of flags"),
        (["ppo"], {"a": [3]}, {}, [], "arm 'a' holds '3', which is no flag"),
        (["ppo"], {"a": {"recipes": "x"}}, {}, [], "arm 'a' has 'recipes'; an arm has recipe and flags"),
        (["ppo"], {"a": {"recipe": ["x"]}}, {}, [], "arm 'a' is .* give a list of flags, or a mapping"),
    ],
)
def test_what_makes_no_study_is_one_line(recipes, arms, grid, flags, message):
    with pytest.raises(UsageError, match=message) as refused:
        study_arms(recipes, arms, grid, flags)
    assert "\n" not in str(refused.value)


def test_the_first_argument_may_be_a_recipe_or_a_study():
    assert flags_of_study(["ppo", "--seeds=2"]) == ["--recipe=ppo", "--seeds=2"]
    assert flags_of_study(["mine.py"]) == ["--recipe=mine.py"]
    assert flags_of_study(["a/b.yaml"]) == ["--config=a/b.yaml"]
    assert flags_of_study(["--slurm", "--seeds=2"]) == ["--slurm=true", "--seeds=2"]
    assert flags_of_study([]) == []
    assert flags_of_study(["asyppo_study.yaml"]) == [f"--config={recipes_folder() / 'configs/asyppo_study.yaml'}"]


def test_the_slurm_script_makes_every_run_once_and_keeps_the_flags(tmp_path):
    arguments = ["recipes/report.py", "asyppo", "--arms={a: [], b: [--x=1]}", "--jobs=4", "--slurm", "--seeds=3"]
    script = slurm_script(arguments, count=6, jobs=4, threads=2)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --array=0-5%4" in lines
    assert "#SBATCH --cpus-per-task=2" in lines
    assert lines[-1].endswith(
        "recipes/report.py asyppo '--arms={a: [], b: [--x=1]}' --seeds=3 --jobs=1 --only=\"$SLURM_ARRAY_TASK_ID\""
    )
    assert "#SBATCH --array=0-5\n" in slurm_script(arguments, count=6, jobs=None, threads=1)
