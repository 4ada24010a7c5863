"""Tools that run recipes over seeds: their runs, curves, and differences between runs that share a seed."""

from math import isnan, nan

import pytest

from recipes.compare import line, reached
from rl4llm.runs.repeats import repeat


@pytest.mark.parametrize(
    ("curve", "batches"),
    [
        ([(1, 0.4), (11, 0.6), (21, 1.0)], 16.0),
        ([(1, 0.4), (11, 0.8)], 11.0),
        ([(1, 0.9), (11, 0.5)], 1.0),
        ([(1, 0.4), (11, 0.3), (21, 0.9), (31, 0.95)], 11 + 10 * 0.5 / 0.6),
    ],
)
def test_an_accuracy_is_reached_on_the_line_between_two_evaluations(curve, batches):
    assert reached(curve, 0.8) == pytest.approx(batches)


def test_an_accuracy_that_is_never_reached_is_no_number():
    assert isnan(reached([(1, 0.4), (11, 0.7)], 0.8))
    assert isnan(reached([], 0.8))


def test_differences_are_taken_seed_by_seed():
    """Seeds that differ by more than the settings do: unpaired, the interval would be far wider."""
    first = [(0.5, 30.0), (0.7, 20.0), (0.9, 10.0)]
    other = [(0.4, 31.0), (0.61, 22.0), (0.8, 12.0)]
    assert line("x", first, first) == "| x | 0.700 |  | 20.0 |  |"
    assert line("x", other, first) == "| x | 0.603 | -0.097 [-0.111, -0.082] | 21.7 | +1.7 [+0.2, +3.1] |"


def test_a_goal_that_one_seed_never_reaches_leaves_no_number():
    first = [(0.5, 30.0), (0.7, nan)]
    assert line("x", first, first) == "| x | 0.600 |  | nan |  |"
    assert (
        line("x", [(0.6, 20.0), (0.8, 20.0)], first)
        == "| x | 0.700 | +0.100 [+0.100, +0.100] | 20.0 | +nan [+nan, +nan] |"
    )


def test_a_run_that_fails_ends_all_with_its_last_line(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text("import sys\nprint('noise', file=sys.stderr)\nsys.exit('error: no such flag')")
    with pytest.raises(SystemExit, match=r"^error: mine with seed 3 failed: no such flag$"):
        list(repeat({"a": (script, ["--x"])}, [3], tmp_path, 1))


def test_every_setting_runs_with_every_seed_in_a_folder_of_its_own(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys, pathlib\nroot = sys.argv[3].partition('=')[2]\n"
        "folder = pathlib.Path(root) / 'mine/version_0'\nfolder.mkdir(parents=True)\n"
        "(folder / 'said').write_text(' '.join([sys.argv[2], *sys.argv[5:]]))"
    )
    found = dict(repeat({"a": (script, ["--x"]), "b": (script, [])}, [0, 7], tmp_path, 2))
    said = {name: [(folder / "said").read_text() for folder in folders] for name, folders in found.items()}
    assert said["a"] == ["--seed_everything=0 --x", "--seed_everything=7 --x"]
    assert said["b"] == ["--seed_everything=0", "--seed_everything=7"]
    assert len({folder for folders in found.values() for folder in folders}) == 4
