"""The notebook that builds AsyPPO from parts runs, and shows what it says it shows."""

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = json.loads(Path("docs/asyppo-from-parts.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_executed():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    pictures = [output for cell in CODE for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) == len(CODE) - 2  # all cells but the imports and the method


@pytest.mark.long
def test_the_cells_run_in_their_order(unchecked_shapes):
    matplotlib.use("Agg")
    names = {"__name__": "notebook"}
    for cell in CODE:
        text = "".join(cell["source"])
        exec(
            compile(text.replace("STEPS, MINIBATCHES = 12, 4", "STEPS, MINIBATCHES = 2, 2"), "notebook", "exec"), names
        )
    batch = names["batch"]
    assert len(names["curve"]) == names["STEPS"] == 2
    shares = [(~gate & batch.response_mask).sum() / batch.response_mask.sum() for gate in batch.gates]
    assert all(0.1 < float(share) <= 0.2 for share in shares)
    matplotlib.pyplot.close("all")
