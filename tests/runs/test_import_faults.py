"""A module of the user's that fails while a flag names it: one line with the file, and a status that is not 0."""

import re
import sys

import pytest

from rl4llm.cli import RecipeCLI
from rl4llm.data import PromptData
from tests.runs.commands import Numbers, flags, toy

MODULES = {
    "raises": ("x = 1\nraise RuntimeError('no data')", r"raises\.py, line 2, fails while .* \(RuntimeError: no data\)"),
    "syntax": ("def f(:", r"syntax\.py fails while it is imported \(SyntaxError: "),
    "leaves": ("import sys\n\nsys.exit(0)", r"leaves\.py, line 3, .* \(it calls sys\.exit\(0\)\)"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_fails_at_import_is_one_line(name, tmp_path, monkeypatch, capsys):
    text, line = MODULES[name]
    (tmp_path / f"broken_{name}").mkdir()
    (tmp_path / f"broken_{name}" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as left:
        RecipeCLI(toy, PromptData, args=flags(tmp_path, f"--data.task=broken_{name}.{name}.Mine"))
    said = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2
    assert len(said) == 1
    assert re.search(line, said[0])
    sys.modules.pop(f"broken_{name}.{name}", None)


def test_help_still_leaves_with_zero(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        RecipeCLI(toy, Numbers, args=["fit", "--help"])
    assert left.value.code == 0
    assert "--model.gate" in capsys.readouterr().out
