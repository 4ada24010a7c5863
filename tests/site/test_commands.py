"""Every command of every page is one that can be typed: its program, its recipe, its flags and its files exist."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import auto_parser

from rl4llm.command.main import main as rl4llm
from rl4llm.studies import flags_of_study, study_arms
from tests.recipes.helpers import RECIPES, config, parser_of

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^ *```bash\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
OTHERS = {
    "cd",
    "eval",
    "register-python-argcomplete",
    "mkdir",
    "mount",
    "vllm",
    "ruff",
    "mypy",
    "mkdocs",
    "python3",
    ".",
    "curl",
    "cp",
}  # programs of others
MINE = """
from rl4llm.gates import AgreementGate as MyGate
from rl4llm.testing import check
from rl4llm.data import AbsoluteDifference as MyTask

def digits_match(prompt, response, answer):
    return float(answer in response)

exact_answer = digits_match

def from_trl(completions, answer, **columns):
    return [0.0 for text in completions]
"""


def blocks(page):
    return FENCE.findall(page.read_text(encoding="utf-8"))


def commands(page):
    """The commands of a page, each as its words; `&&` parts them."""
    for block in blocks(page):
        waiting = ""
        for line in block.replace("\\\n", " ").splitlines():
            waiting += line.strip() + "\n"
            try:
                words = shlex.split(waiting, comments=True)
            except ValueError:  # a quotation that goes on
                continue
            waiting = ""
            text = "\0".join(words)
            yield from (part.strip("\0").split("\0") for part in text.split("\0&&\0") if part.strip("\0"))
        assert not waiting.strip(), f"{page}: a quotation does not end in {waiting}"


MODULES = ("mine", "my_rewards")
RUN = ("components/data", "components/rewards", "docs/evaluate", "docs/real-models")  # by tests of their own
ALL = [
    (page, words)
    for page in PAGES
    if not str(page).endswith(tuple(f"{run}.md" for run in RUN))
    for words in commands(page)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the modules and configurations that the pages name."""
    root = tmp_path_factory.mktemp("place")
    for module in MODULES:
        (root / f"{module}.py").write_text(MINE)
    (root / "recipes").symlink_to(ROOT / "recipes")
    (written,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/real-models.md").read_text(), re.M | re.S)
    (root / "smollm2.yaml").write_text(written)
    saved = root / "runs/compare/version_0/2/0/asyppo/version_0"
    saved.mkdir(parents=True)
    (saved / "config.yaml").write_text(yaml.safe_dump(config("asyppo")))
    return root


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_shell_reads_every_block_of_the_page(page):
    text = "\n".join(blocks(page))
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page.stem}: {' '.join(words)[:90]}" for page, words in ALL])
def test_the_command_can_be_typed(page, words, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    for module in MODULES:  # those that other tests wrote
        monkeypatch.delitem(sys.modules, module, raising=False)
    while re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
        words = words[1:]
    check(words)


def check(words):
    """Fail unless the words are a command."""
    program, *rest = words
    if program.startswith("--"):  # flags of a recipe, shown alone
        return parse("asyppo", ["fit", *words])
    if program.startswith(".ci/"):
        return check_python([program])
    return CHECKS[program](rest)


def check_python(words):
    """A recipe, a tool, a module or a file of the repository."""
    first, *rest = words
    if first.startswith("recipes/"):
        parse(Path(first).stem, rest)
    elif first == "-m":
        assert not rest[0].startswith("rl4llm") or importlib.util.find_spec(rest[0]) is not None
    else:
        assert (ROOT / first).is_file(), f"{first} is no file"


def check_rl4llm(words):
    """A recipe or a subcommand, which is asked for its help."""
    if words[0] in (*RECIPES, "report"):
        return parse(words[0], words[1:])
    with pytest.raises(SystemExit) as left:
        rl4llm([words[0], *([] if words[0] == "list" else ["--help"])])
    assert not left.value.code
    return None


def check_torchrun(words):
    """Behind the launcher's own flags stands a file."""
    check_python(words[[word.startswith("recipes/") for word in words].index(True) :])


def check_pip(words):
    """Extras of the library exist."""
    known = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    for extras in re.findall(r"(?:rl4llm|\.)\[([\w,-]+)\]", " ".join(words)):
        assert all(f"\n{extra} = [" in known for extra in extras.split(",")), extras


def check_pytest(words):
    """Its paths exist."""
    assert all((ROOT / word).exists() for word in words if word.startswith("tests"))


CHECKS = {
    "python": check_python,
    "rl4llm": check_rl4llm,
    "torchrun": check_torchrun,
    "pip": check_pip,
    "pytest": check_pytest,
    **{program: lambda words: None for program in OTHERS},
}


def parse(name, words):
    """Parse the words of a recipe or a tool as its command line does; nothing is loaded or trained."""
    if name == "dr_cispo":  # the recipe that a page shows how to write
        name = "cispo"
    if name in RECIPES:
        try:
            parser_of(name, words[0]).parse_args(words)
        except SystemExit as left:  # --print_config ends so
            if left.code:
                raise
        return
    tool = getattr(importlib.import_module(f"recipes.{name}"), name)
    given = auto_parser(tool, as_positional=False).parse_args(flags_of_study(words) if name == "report" else words)
    if name == "report" and not any(word.endswith(".yaml") for word in words):  # a study's arms have tests of their own
        recipes = [given.recipe] if isinstance(given.recipe, str) else given.recipe or []
        for arm in study_arms(recipes, given.arms, given.grid, given.flags):
            parser_of(arm.recipe).parse_args(["fit", *arm.flags])


def check_subcommand(subcommand):
    """Ask a subcommand for its help, or for the list of recipes."""
    with pytest.raises(SystemExit) as left:
        rl4llm([subcommand, "--help"] if subcommand != "list" else [subcommand])
    assert left.value.code in (0, 1)


WRONG = [
    "python recipes/asyppo.py fit --model.gaet=null", "python recipes/nothing.py fit", "pip install 'rl4llm[lorra]'",
    "rl4llm asypo fit", "ppython recipes/asyppo.py", "rl4llm report asyppo --amrs='{}'",
    "rl4llm report asyppo --arms='{a: [--model.gate=RandmGate]}'",
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("line", WRONG)
def test_a_command_with_a_mistake_is_found(line, place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises((AssertionError, SystemExit, ModuleNotFoundError, KeyError)):
        check(shlex.split(line))
