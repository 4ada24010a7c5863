"""Texts of the command: usage, the table of recipes, and what to type next."""

import textwrap
from collections.abc import Sequence

from rl4llm.command.recipes import RecipeFile

USAGE = """\
rl4llm {version}: reinforcement learning for language models, as parts

usage: rl4llm RECIPE fit [flags]       train; for example: rl4llm asyppo fit
       rl4llm RECIPE                   what a recipe does, and what to type
       rl4llm list                     every recipe: method, idea, paper, parts
       rl4llm copy RECIPE [FILE]       the recipe as a file to edit
       rl4llm cite RECIPE ...          the BibTeX of what a recipe composes
       rl4llm check MODULE:NAME        run the laws on a part of your own
       rl4llm look RUN_FOLDER          a run as one HTML file, token by token
       rl4llm report RECIPE ...        arms of recipes over seeds, compared seed by seed
       rl4llm evaluate --model=FOLDER  mean@k, pass@k, maj@k of a model, with intervals

RECIPE is a name from `rl4llm list` or the path of a recipe file.
"""

_NEXT = """\
{name}{paper}
{idea}

  rl4llm {name} fit                        train on the embedded task
  rl4llm {name} fit --help                 every flag
  rl4llm {name} fit --print_config         the whole algorithm as YAML
  rl4llm {name} validate --ckpt_path=last  evaluate the newest run
  rl4llm copy {name}                       the recipe as a file to edit
  rl4llm cite {name}                       the BibTeX of what it composes
"""


def next_steps(recipe: RecipeFile) -> str:
    """Return what a recipe does and what to type."""
    return _NEXT.format(name=recipe.name, idea=recipe.idea, paper=f" ({recipe.paper})" if recipe.paper else "")


def table(recipes: Sequence[RecipeFile], width: int) -> str:
    """Return a table of recipes; on a narrow terminal the parts stand under the idea instead of beside it.

    Args:
        recipes: The rows.
        width: Columns of the terminal; at least 80 are taken.
    """
    width, wide = max(width, 80), width >= 140
    heads = ("method", "paper", "idea", "parts") if wide else ("method", "paper", "idea and parts")
    left = width - max(len(recipe.name) for recipe in recipes) - len("arXiv:0000.00000") - 2 * (len(heads) - 1)
    widths = [max(len(recipe.name) for recipe in recipes), len("arXiv:0000.00000")]
    widths += [left * 3 // 5, left - left * 3 // 5] if wide else [left]
    rows = [(one.name, one.paper, *_described(one, wide=wide)) for one in recipes]
    return "\n".join([_row(heads, widths), "-" * width, *(_row(row, widths) for row in rows)]) + "\n"


def _described(recipe: RecipeFile, *, wide: bool) -> tuple[str, ...]:
    parts = ", ".join(recipe.parts)
    return (recipe.idea, parts) if wide else (f"{recipe.idea}\n{parts}",)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    wrapped = [_lines(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    columns = [column + [""] * (height - len(column)) for column in wrapped]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True))


def _lines(cell: str, width: int) -> list[str]:
    return [line for paragraph in cell.split("\n") for line in textwrap.wrap(paragraph, width) or [""]]
