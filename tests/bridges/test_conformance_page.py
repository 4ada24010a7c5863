"""The examples of the page Conformance print what the page says, where the library is installed."""

import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.bridges.openrlhf_stubs import without_kernels

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/conformance.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LIBRARIES = {"verl": "verl", "trl_losses": "trl", "openrlhf": "openrlhf", "torchrl": "torchrl"}  # by what is imported


def library_of(block):
    return LIBRARIES[re.search(r"^from (\w+)", block, re.MULTILINE)[1]]


def test_every_library_has_examples():
    assert {library_of(block) for block in BLOCKS} == set(LIBRARIES.values())


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_prints_what_the_page_says(number, capsys, monkeypatch):
    block = BLOCKS[number]
    library = library_of(block)
    pytest.importorskip(library, reason=f"{library} is not installed; .ci/peers installs it")
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    with without_kernels() if library == "openrlhf" else nullcontext():  # forgets the empty modules afterwards
        exec(compile(block, "conformance.md", "exec"), {"__name__": "page"})
    said = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == said
