"""A run that was killed and went on is the run that was never killed, to the last bit."""

import pytest

from tests.devices.killing import RECIPES, assert_same, command, finish, killed, newest

pytestmark = pytest.mark.devices
LONG = {"asyppo": 20, "asyppo with adapters": 5, "spo": 5, "r2vpo": 5, "dapo": 5}


def compare(recipe, root, kills):
    """Chains of kills, each compared with one run that was left alone, until there were so many kills."""
    (root / "straight").mkdir(parents=True)
    finish(command(recipe, root / "straight"), root / "straight" / "log.txt")
    straight, done, chain = newest(root / "straight", recipe), 0, 0
    while done < kills:
        folder, struck = killed(recipe, root / f"killed_{chain}", kills - done, seed=chain)
        assert_same(straight, folder)
        done, chain = done + struck, chain + 1
    print(f"{recipe}: {done} kills in {chain} chains")
    assert done == kills


def test_three_kills_leave_no_trace(tmp_path):
    compare("asyppo", tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_many_kills_leave_no_trace(recipe, tmp_path):
    compare(recipe, tmp_path, LONG[recipe])
