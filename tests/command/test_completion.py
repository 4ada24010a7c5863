"""Tab completion: names without loading anything, flags and classes of a recipe from a cache, in a real shell too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rl4llm.command.completion import cache_file, flags_of, parser_for
from rl4llm.command.main import COMMANDS, main
from rl4llm.command.recipes import recipe_path

pytest.importorskip("argcomplete")
ROOT = Path(__file__).parents[2]
FLAGS = {
    "fit": {"--model.gate": ["AgreementGate", "RandomGate"], "--model.gate.fraction": [], "--seed_everything": []},
    "validate": {"--model.gate": ["AgreementGate"]},
}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The flags of `asyppo` are known; no process may be started to find any."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cache_file(recipe_path("asyppo"))
    file.parent.mkdir()
    file.write_text(json.dumps(FLAGS))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))


def completed(line, tmp_path, monkeypatch):
    """Return what the command completes a line to."""
    answer, opened = tmp_path / "answer", os.fdopen
    # argcomplete opens the shell's descriptor 9 and closes it, which here may be one of pytest's own
    monkeypatch.setattr(os, "fdopen", lambda fd, *more: opened(os.dup(2) if fd == 9 else fd, *more))
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setenv("_ARGCOMPLETE_IFS", "\n")
    monkeypatch.setenv("_ARGCOMPLETE_COMP_WORDBREAKS", " =:")
    monkeypatch.setenv("_ARGCOMPLETE_STDOUT_FILENAME", str(answer))
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    with pytest.raises(SystemExit):
        main([])
    return [word.strip() for word in answer.read_text().split("\n")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rl4llm asy", ["asyppo"]),
        ("rl4llm rep", ["report"]),
        ("rl4llm cop", ["copy"]),
        ("rl4llm asyppo ", ["fit", "validate", "test"]),
        ("rl4llm asyppo v", ["validate"]),
        ("rl4llm asyppo fit --mod", ["--model.gate", "--model.gate.fraction"]),
        ("rl4llm asyppo validate --mod", ["--model.gate"]),
        ("rl4llm asyppo fit --model.gate=", ["AgreementGate", "RandomGate"]),
        ("rl4llm asyppo fit --seed_everything=1 --model.gate=Ran", ["RandomGate"]),
    ],
)
def test_names_flags_and_classes_are_completed(line, words, cached, tmp_path, monkeypatch):
    assert completed(line, tmp_path, monkeypatch) == words


def test_every_recipe_and_command_is_offered(tmp_path, monkeypatch, cached):
    offered = set(completed("rl4llm ", tmp_path, monkeypatch))
    assert offered == {path.stem for path in (ROOT / "recipes").glob("*.py")} | set(COMMANDS)


def test_nothing_is_loaded_for_it():
    code = "import sys; from rl4llm.command.completion import parser_for; parser_for(['rl4llm', 'asyppo', ''], [])"
    code += "; print(sorted({'torch', 'lightning', 'jsonargparse'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_recipe_that_changes_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    recipe = tmp_path / "mine.py"
    recipe.touch()
    before = cache_file(recipe)
    os.utime(recipe, (1, 1))
    assert cache_file(recipe) != before


def test_a_recipe_that_cannot_be_loaded_has_no_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("raise RuntimeError")
    monkeypatch.setattr(sys, "executable", "false")
    assert flags_of(tmp_path / "mine.py") == {}
    assert parser_for(["rl4llm", str(tmp_path / "mine.py"), "fit", "--m"], [])


def test_its_absence_is_one_line_that_names_the_extra(monkeypatch, capsys):
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said == "error: completion needs argcomplete; run pip install 'rl4llm[completion]'.\n"


# --- a real shell -----------------------------------------------------------------------------------------------------

SHELL = """
import os, pty, select, sys, time
pid, terminal = pty.fork()
if not pid:
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

def typed(text, awaited):
    os.write(terminal, text.encode())
    seen, until = "", time.monotonic() + 240
    while awaited not in seen and time.monotonic() < until:
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    return awaited in seen

typed("PS1=READY\\n", "READY")
typed('eval "$(register-python-argcomplete rl4llm)"; echo do""ne\\n', "done")
for text, awaited in [pair.split("|") for pair in sys.argv[1:]]:
    print(text, typed(text + "\\t", awaited))
    typed("\\x15", "")
"""


@pytest.mark.long
def test_bash_completes_a_flag_of_a_recipe_and_a_class(tmp_path):
    commands = {"rl4llm": "rl4llm", "register-python-argcomplete": "argcomplete.scripts.register_python_argcomplete"}
    for name, module in commands.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    libraries = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": libraries,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TERM": "dumb",
    }
    wanted = ["rl4llm asy|asyppo", "rl4llm asyppo fit --model.entropy.where.fr|fraction"]
    wanted += ["rl4llm asyppo fit --model.gate=Agr|AgreementGate"]
    command = [sys.executable, "-c", SHELL, *wanted]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{pair.partition('|')[0]} True" for pair in wanted], done.stderr
