"""A run that was killed and went on is the run that was never killed, to the last bit."""

import pytest

from tests.devices.killing import RECIPES, assert_same, command, finish, killed, newest

pytestmark = pytest.mark.devices
LONG = {"asyppo": 20, "spo": 5, "r2vpo": 5, "dapo": 5}


def both(recipe, root, kills, seed):
    (root / "straight").mkdir(parents=True)
    finish(command(recipe, root / "straight"), root / "straight" / "log.txt")
    return newest(root / "straight", recipe), killed(recipe, root / "killed", kills, seed)


def test_three_kills_leave_no_trace(tmp_path):
    assert_same(*both("asyppo", tmp_path, 3, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_many_kills_leave_no_trace(recipe, tmp_path):
    chain = 5
    for part in range(LONG[recipe] // chain):
        assert_same(*both(recipe, tmp_path / str(part), chain, seed=part))
