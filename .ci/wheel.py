"""What an installed wheel must do, in an environment that holds nothing but the wheel and what it requires.

Run it in a folder of its own, where no checkout can be imported by chance: PYTHON .ci/wheel.py
"""

import doctest
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

WITH_AN_EXTRA = (
    "rl4llm.testing",
    "rl4llm.vllm_plugin",
    "rl4llm.bridges",
    "rl4llm.critics.adapters",
    "rl4llm.models.adapters",
    "rl4llm.studies.statistics",
)
COMMANDS = ("rl4llm.__main__", "rl4llm.recipes")


def said(*words, status=0):
    """What a command prints, once it has ended with the status it should have."""
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == status, (words, result.returncode, result.stderr[-2000:])
    return result.stdout + result.stderr


def families_are_attributes():
    """One import reaches every family."""
    said(sys.executable, "-c", "import rl4llm; rl4llm.advantages.gae; rl4llm.critics.MiniCritics; rl4llm.gates")


def doctests_pass():
    """Every example in a docstring, except where it is about an extra."""
    import rl4llm

    tried = 0
    for module in pkgutil.walk_packages(rl4llm.__path__, "rl4llm."):
        if module.name.startswith((*WITH_AN_EXTRA, *COMMANDS)):
            continue
        failed, attempted = doctest.testmod(
            import_module(module.name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        )
        assert not failed, module.name
        tried += attempted
    assert tried > 350, tried


def the_command_runs_a_recipe():
    """Listed, copied, cited, trained for two batches, saved."""
    command = str(Path(sys.executable).parent / "rl4llm")
    assert "asyppo" in said(command, "list")
    assert "asyppo" in said(sys.executable, "-m", "rl4llm", "list")
    said(command, "copy", "asyppo")
    assert "@" in said(command, "cite", "asyppo.py")
    short = ("--trainer.max_steps=2", "--data.prompts_per_step=4", "--trainer.val_check_interval=2")
    said(command, "asyppo", "fit", *short, "--data.task.held_out_size=8")
    assert list(Path("runs/asyppo/version_0/checkpoints").glob("*.ckpt"))
    assert "AgreementGate" in said(sys.executable, "asyppo.py", "fit", "--print_config")


def the_kit_names_its_extra():
    """Without Hypothesis the kit is one line."""
    line = said(str(Path(sys.executable).parent / "rl4llm"), "check", "rl4llm.advantages:GAE", status=2)
    assert "rl4llm[test]" in line, line
    assert line.count("\n") == 1, line


for check in (families_are_attributes, doctests_pass, the_command_runs_a_recipe, the_kit_names_its_extra):
    check()
    print(f"the wheel: {check.__name__.replace('_', ' ')}", flush=True)
