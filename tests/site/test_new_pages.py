"""The pages that lead through a task: what they name exists, and their code does what they say."""

import re
import shlex
from pathlib import Path

import pandas
import pytest

from tests.recipes.helpers import parser_of

DOCS = Path(__file__).parents[2] / "docs"


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_metrics_of_the_page_on_debugging_are_logged():
    table = text_of("recipes/asyppo.md")
    named = set(
        re.findall(r"`((?:train|policy|critics|critic_0|grad_norm|skipped|penalty|val|time)/\w+)`", text_of("debug.md"))
    )
    assert len(named) >= 15
    missing = [name for name in sorted(named) if f"`{name}`" not in table]
    assert not missing, f"debug.md names {missing}, which the table of what is logged does not have"


FLAGS = sorted(set(re.findall(r"`(--(?:model|data|trainer)\.[^`]*[^`=])`", text_of("debug.md"))))


@pytest.mark.long
@pytest.mark.parametrize("flags", FLAGS)
def test_the_remedies_of_the_page_on_debugging_are_flags(flags):
    words = [word if "=" in word else f"{word}={PLAIN[word]}" for word in shlex.split(flags)]
    parser_of("asyppo").parse_args(["fit", *words])


PLAIN = {  # a value for a flag that the page names without one
    "--model.optimizer.lr": "1e-6",
    "--model.critic_optimizer.lr": "1e-6",
    "--model.sampling.max_response_tokens": "64",
    "--model.updates.minibatches": "8",
    "--model.critic_updates.epochs": "4",
    "--model.critics.size": "2",
    "--model.critics.shards": "prompt",
}


ARMS = ("as it is", "random gate", "no gate")


def ran(page, folder, metrics):
    """Names that the Python block of a page leaves, on two seeds of three arms as `rl4llm report` writes them."""
    rows = [
        {"arm": arm, "seed": seed, "step": step, "metric": metric, "value": (number + seed + 2 * (step > 0)) / 10}
        for number, arm in enumerate(ARMS)
        for seed in range(2)
        for step in (0, 9)
        for metric in metrics
    ]
    Path(folder).mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(f"{folder}/metrics.parquet")
    (block,) = re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(block, page, "exec"), names)
    return names


def test_the_table_of_the_guide_to_ablations_has_the_mean_of_every_arm_at_every_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = ran("guide/ablate.md", "runs/report", ("val/sampled_accuracy", "critics/explained_variance"))["values"]
    assert {arm: [round(x, 9) for x in values[arm]] for arm in ARMS} == {
        "as it is": [0.05, 0.25], "random gate": [0.15, 0.35], "no gate": [0.25, 0.45],
    }  # fmt: skip
    assert list(values.index) == [0, 9]


def test_the_plot_of_the_page_on_ablations_shows_every_arm(tmp_path, monkeypatch):
    """Curves are the numbers of each seed and their means."""
    monkeypatch.chdir(tmp_path)
    names = ran("ablation.md", "runs/ablation", ("val/sampled_accuracy", "train/reward"))
    assert Path("ablation.pdf").is_file()
    lines = names["axes"].get_lines()
    assert len(lines) == 3 * (1 + 2)
    assert list(lines[0].get_xdata()) == [0, 9]
    means = [[round(y, 9) for y in line.get_ydata()] for line in lines[::3]]
    assert means == [[0.05, 0.25], [0.15, 0.35], [0.25, 0.45]]
    assert [text.get_text() for text in names["axes"].get_legend().get_texts()][1] == "random gate, 2 seeds"


def test_every_recipe_of_the_guide_to_methods_exists():
    named = {
        name
        for row in re.findall(r"^\|.*\|$", text_of("choose.md"), re.MULTILINE)
        for name in re.findall(r"`([a-z_0-9]+)`", row.split("|")[2])
    }
    assert len(named) >= 20
    missing = [name for name in named if not (DOCS.parent / "recipes" / f"{name}.py").is_file()]
    assert not missing
