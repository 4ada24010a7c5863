"""The page From TRL or verl shows the settings that the tests compare, and its code runs where the libraries are."""

import importlib
import re
from pathlib import Path

import pytest

from tests.bridges import settings
from tests.bridges.openrlhf_stubs import without_kernels

PAGE = (Path(__file__).parent.parent.parent / "docs/guide/from-trl-or-verl.md").read_text(encoding="utf-8")
ROWS = [row for table in settings.TABLES for row in table]


@pytest.mark.parametrize(("theirs", "ours"), ROWS)
def test_the_page_has_every_setting_that_is_compared(theirs, ours):
    assert f"| `{theirs}` | `{ours}` |" in PAGE
    assert settings.keywords(ours)


def test_the_code_of_the_page_runs():
    for library in ("trl", "verl", "openrlhf"):
        pytest.importorskip(library, reason=f"{library} is not installed; .ci/peers installs it")
    with without_kernels():
        importlib.import_module("openrlhf.trainer.ppo_utils.experience_maker")
    names = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "from-trl-or-verl.md", "exec"), names)
    assert names["Trainer"].__name__ == "GRPOTrainerWithParts"
    assert names["ExperienceMaker"].__name__ == "RemoteExperienceMakerWithAdvantage"
