"""The BibTeX of a composition: every part's paper, each once, and no other."""

import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest

import rl4llm
from rl4llm.advantages import GAE
from rl4llm.citations import citations, paper_ids
from rl4llm.citations.__main__ import main
from rl4llm.citations.methods import KINDS, METHODS
from rl4llm.citations.papers import PAPERS
from rl4llm.gates import AgreementGate, CorrectResponses, Gate, HighEntropy, RandomGate
from rl4llm.objectives import REBEL, PPOClip, SequenceMean
from rl4llm.regularizers import EntropyBonus
from rl4llm.replay import FIFOReplay, SuccessReplay

ROOT = Path(__file__).parents[2]
WITHOUT_PAPER = ("compare", "evaluate", "report", "sft")
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.py") if path.stem not in WITHOUT_PAPER)
ENTRY = re.compile(r'@(\w+)\{([\w.:]+),\n((?:  \w+ = \{[^"\n]*\},\n)+)\}\n')
NAME = re.compile(r"(?:\{[\w ]+\}|[^\W\d_]\S*(?: [\w.'-]+)+)")
SOURCES = Path(__file__).with_name("paper_sources.tsv")
PAGES = [ROOT / "docs/papers.md", *(ROOT / "docs/components").glob("*.md"), *(ROOT / "docs/recipes").glob("*.md")]


def entries(text):
    """Key → fields of every entry; the text must hold nothing else."""
    assert ENTRY.sub("", text).strip() == "", "not BibTeX"
    found = ENTRY.findall(text)
    assert all(body.count("{") == body.count("}") for *_, body in found)
    return {key: dict(re.findall(r"  (\w+) = \{(.*)\},", body)) for _, key, body in found}


def classes():
    """Every class of the library that names a paper."""
    for module in pkgutil.walk_packages(rl4llm.__path__, "rl4llm."):
        for _, thing in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if thing.__module__ == module.name and isinstance(getattr(thing, "paper", None), str):
                yield thing


def test_every_component_has_an_entry():
    found = list(classes())
    assert len(found) > 40
    missing = {c.__name__: number for c in found for number in paper_ids(c) if number not in PAPERS}
    assert not missing, f"add these to rl4llm/citations/papers.py: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_paper_on_a_page_has_an_entry(page):
    linked = set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", page.read_text(encoding="utf-8")))
    assert linked <= set(PAPERS), f"add these to rl4llm/citations/papers.py: {sorted(linked - set(PAPERS))}"


def test_the_table_is_sorted_and_plain():
    assert list(PAPERS) == sorted(PAPERS)
    for number, (author, title) in PAPERS.items():
        assert re.fullmatch(r"\d{4}\.\d{4,5}", number)
        assert re.fullmatch(rf"{NAME.pattern}(?: and {NAME.pattern})+", author), author
        assert re.fullmatch(r"[A-Z][^{}%&#_$\\\"]*[\w+?]", title), title


def test_every_paper_is_as_its_source_has_it():
    head, *rows = [line.split("\t") for line in SOURCES.read_text(encoding="utf-8").splitlines()]
    assert head == ["id", "title", "authors", "source"]
    seen = {number: (title, authors) for number, title, authors, _ in rows}
    assert len(seen) == len(rows)
    assert all(source for *_, source in rows)
    assert {number: (title, author.replace(" and ", ", ")) for number, (author, title) in PAPERS.items()} == seen


def test_no_author_list_is_cut():
    assert not [number for number, (author, _) in PAPERS.items() if "others" in author]


def test_the_whole_table_is_bibtex():
    @dataclass(frozen=True)
    class Everything:
        paper: ClassVar[str] = ", ".join(PAPERS)

    found = entries(citations(Everything()))
    assert list(found) == ["rl4llm", *(f"arXiv:{number}" for number in PAPERS)]
    for number, (author, title) in PAPERS.items():
        assert found[f"arXiv:{number}"] == {
            "title": title,
            "author": author,
            "year": f"20{number[:2]}",
            "eprint": number,
            "archivePrefix": "arXiv",
        }


def test_the_first_entry_is_the_library_as_its_citation_file_has_it():
    found = entries(citations([]))
    assert list(found) == ["rl4llm"]
    said = dict(
        re.findall(r"^\s*-?\s*([\w-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert found["rl4llm"] == {
        "title": said["title"],
        "author": "{" + said["name"] + "}",
        "year": said["date-released"][:4],
        "version": said["version"],
    }


def test_papers_are_sorted_and_cited_once():
    parts = [PPOClip(), AgreementGate(), GAE(), AgreementGate(fraction=0.3)]
    assert paper_ids(parts) == sorted({PPOClip.paper, AgreementGate.paper, GAE.paper})
    assert citations(parts) == citations(reversed(parts)) == citations(iter(parts)) == citations(set(parts))
    assert citations(AgreementGate()) == citations([AgreementGate()])


def test_parts_inside_parts_are_cited_and_go_with_them():
    bonus = EntropyBonus(where=AgreementGate() & ~HighEntropy())
    assert paper_ids(bonus) == sorted({EntropyBonus.paper, AgreementGate.paper, HighEntropy.paper})
    assert paper_ids(replace(bonus, where=HighEntropy())) == sorted({EntropyBonus.paper, HighEntropy.paper})
    assert paper_ids(replace(bonus, where=None)) == [EntropyBonus.paper]
    assert paper_ids({"entropy": bonus, "empty": None}) == paper_ids(bonus)
    assert paper_ids(MappingProxyType({"a": [GAE(), (None, bonus)]})) == sorted({GAE.paper, *paper_ids(bonus)})
    assert paper_ids(RandomGate()) == []


def test_one_part_may_have_several_papers_and_one_that_nobody_knows():
    @dataclass(frozen=True)
    class Mine:
        paper: ClassVar[str] = "1707.06347, 2999.00001,"

    found = entries(citations(Mine()))
    assert list(found) == ["rl4llm", "arXiv:1707.06347", "arXiv:2999.00001"]
    assert found["arXiv:2999.00001"] == {"eprint": "2999.00001", "archivePrefix": "arXiv"}


def test_a_built_replay_is_cited_as_its_choice():
    assert paper_ids(SuccessReplay().build()) == paper_ids(SuccessReplay()) == ["2509.01720"]
    assert paper_ids(FIFOReplay().build()) == []


MEAN = SequenceMean()


class Loop:
    """A module whose slots have defaults."""

    def __init__(self, advantage=None, aggregator=MEAN, replay=None):
        pass


def test_of_a_recipe_function_the_defaults_are_cited():
    correct, gae, bonus = CorrectResponses(), GAE(), EntropyBonus(where=HighEntropy())

    def alone(advantage=gae, gate: Gate | None = correct, size: int = 3) -> Loop: ...

    def handing_on(advantage=gae, bonus=bonus, **options) -> Loop: ...

    def emptied(advantage=gae, aggregator=None, **options) -> Loop: ...

    assert paper_ids(alone) == sorted({GAE.paper, CorrectResponses.paper})
    inner = {GAE.paper, EntropyBonus.paper, HighEntropy.paper}
    assert paper_ids(handing_on) == sorted(inner | {SequenceMean.paper})
    assert paper_ids(emptied) == [GAE.paper]
    assert paper_ids([alone, handing_on]) == sorted({*paper_ids(alone), *paper_ids(handing_on)})


def composed(advantage=None, aggregator=MEAN) -> Loop: ...


def test_slots_that_a_recipe_hands_on_are_those_of_the_function_that_composes():
    gae = GAE()

    def recipe(advantage=gae, **options) -> Loop:
        return composed(advantage=advantage, **options)

    assert paper_ids(recipe) == sorted({GAE.paper, SequenceMean.paper})


def recipe_of(path):
    """The recipe function of a file."""
    return runpy.run_path(str(path))[path.stem]


OWN = re.compile(r"\(arXiv:(\d{4}\.\d{4,5})\)")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_cites_the_paper_that_its_docstring_names(path):
    recipe = recipe_of(path)
    (own,) = OWN.findall(recipe.__globals__["__doc__"])
    assert own in PAPERS
    assert own in paper_ids(recipe)


@pytest.mark.parametrize(
    ("stem", "foreign"),
    [
        ("remax", "2509.13232"),
        ("a_star_po", "2509.13232"),
        ("a_star_po", "2402.03300"),
        ("tbrm", "2402.03300"),
        ("rebel", "2402.03300"),
        ("raft", "2402.14740"),
        ("ppo", "2501.03262"),
        ("asyppo", "2501.03262"),
        ("spo", "2501.03262"),
    ],
)
def test_a_recipe_cites_no_paper_whose_method_it_does_not_use(stem, foreign):
    assert foreign not in paper_ids(recipe_of(ROOT / f"recipes/{stem}.py"))


def test_an_aggregator_is_cited_only_where_the_loss_is_one_number_per_token():
    @dataclass(frozen=True)
    class Composed:
        objective: object
        aggregator: object = MEAN

    assert paper_ids(Composed(PPOClip())) == sorted({PPOClip.paper, SequenceMean.paper})
    assert paper_ids(Composed(REBEL())) == [REBEL.paper]
    assert paper_ids({"objective": REBEL(), "aggregator": MEAN}) == [REBEL.paper]
    assert paper_ids(MEAN) == [SequenceMean.paper]


def test_asyppo_cites_the_paper_of_each_of_its_parts():
    cited = paper_ids(recipe_of(ROOT / "recipes/asyppo.py"))
    for number in ("2510.01656", "1707.06347", "1506.02438", "1602.01783"):
        assert number in cited


def test_a_module_cites_what_its_recipe_does_and_less_without_a_part(tiny_policy, tiny_critic):
    from rl4llm.critics import MiniCritics, SymmetricCritic

    asyppo = recipe_of(ROOT / "recipes/asyppo.py")
    whole = asyppo(tiny_policy, critics=MiniCritics(tiny_critic))
    assert citations(whole) == citations(asyppo)
    plain = asyppo(tiny_policy, critics=SymmetricCritic(), gate=None, entropy=None)
    assert set(paper_ids(whole)) - set(paper_ids(plain)) == {"2510.01656", "1602.01783"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_file_is_cited_from_the_command_line(path, capsys):
    main([str(path)])
    printed = entries(capsys.readouterr().out)
    assert list(printed) == ["rl4llm", *(f"arXiv:{number}" for number in paper_ids(recipe_of(path)))]
    assert len(printed) > 1


def test_the_page_of_papers_is_what_the_generator_gives(capsys):
    main(["--papers"])
    printed = capsys.readouterr().out
    assert (ROOT / "docs/papers.md").read_text(encoding="utf-8") == printed, (
        "write it again: python -m rl4llm.citations --papers > docs/papers.md"
    )


def test_every_method_says_what_was_read_and_what_differs():
    assert len({method.name for method in METHODS}) == len(METHODS)
    for method in METHODS:
        assert set(method.numbers) <= set(PAPERS), method.name
        assert method.read, method.name
        assert set(method.read) <= {*KINDS}, method.name
        assert re.fullmatch(r"[A-Zαβ`].*\.", method.differs), method.name


def test_the_page_names_the_paper_of_every_part_and_every_recipe():
    numbers = {number for method in METHODS for number in method.numbers}
    missing = {c.__name__: number for c in classes() for number in paper_ids(c) if number not in numbers}
    assert not missing, f"add these to rl4llm/citations/methods.py: {missing}"
    listed = " ".join(method.recipe for method in METHODS)
    assert not [path.stem for path in RECIPES if not re.search(rf"\b{path.stem}\b", listed)]
    for path in RECIPES:
        (own,) = OWN.findall(recipe_of(path).__globals__["__doc__"])
        assert own in numbers, path.stem


@pytest.mark.parametrize("paths", [[], ["nowhere.py"]])
def test_without_a_file_one_line_says_so(paths, capsys):
    with pytest.raises(SystemExit) as left:
        main(paths)
    assert left.value.code == 2
    assert re.fullmatch(
        r"error: (no argument|nowhere\.py) is no recipe file; name one or more\.\n", capsys.readouterr().err
    )


def test_citing_loads_neither_lightning_nor_transformers():
    code = "import sys, rl4llm.citations; print(*sorted({'lightning', 'transformers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
