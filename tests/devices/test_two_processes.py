"""Two processes are one process: the same command gives the same numbers and the same weights."""

from pathlib import Path

import pyarrow.parquet
import pytest

from rl4llm.look.files import row_files
from tests.devices.helpers import SGD, SMALL, largest_difference, metric_differences, run_jobs

pytestmark = pytest.mark.devices

TABLE = ["--data.task.train_size=24"]
LORA = ["--model.policy.adapter=LoRA", "--model.critics.model.adapter=LoRA"]
ADAPTERS = ["--model.critics=AdapterCritics", "--model.critics.adapter.rank=4"]
ONE_MODEL = ["--model.policy.adapter=LoRA", *ADAPTERS, "--model.critics.model=null"]
RECIPES = {
    "asyppo": SGD,
    "ppo": SGD,
    "grpo": SGD,
    "dapo": [*SGD, *TABLE, "--model.dynamic_sampling.max_draws=4"],
    "spo": [*SGD, *TABLE, "--model.responses_per_prompt=1", "--data.sampler=Prioritized", "--model.critics.samples=2"],
    "r2vpo": SGD,
    "rebel": SGD,
    "asyppo with adapters": [*SGD, *ADAPTERS],
    "asyppo on one model": [*SGD, *ONE_MODEL],
    "asyppo with AdamW": [],
    "ppo with AdamW": [],
    "asyppo with LoRA": [*SGD, *LORA, "--model.kl_reward=KLReward", "--model.reference_interval=2"],
}


def jobs(root, strategy, devices):
    options = [f"--trainer.strategy={strategy}", f"--trainer.devices={devices}"] if devices > 1 else []
    return [
        {
            "recipe": name.split()[0],
            "args": ["fit", *SMALL, *flags, *options, f"--trainer.default_root_dir={root}/{name.replace(' ', '_')}"],
        }
        for name, flags in RECIPES.items()
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    return dict(zip(RECIPES, run_jobs(jobs(root, "auto", 1), 1, root), strict=True))


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def together(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return dict(zip(RECIPES, run_jobs(jobs(root, request.param, 2), 2, root), strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_are_one(recipe, alone, together):
    one, two = alone[recipe], together[recipe]
    assert len(one["training"]) == 3 or recipe == "dapo"
    differences = metric_differences(one, two)
    assert max(differences.values()) < 1e-5, {n: d for n, d in differences.items() if d >= 1e-5}
    largest, name = largest_difference(one, two)
    assert largest < 1e-5, name


def kept_rows(run):
    """The columns of every file of rows that a run has kept, numbers in one list."""
    tables = {
        step: pyarrow.parquet.read_table(file).to_pydict() for step, file in row_files(Path(run["folder"])).items()
    }
    return {step: {name: flat(column) for name, column in columns.items()} for step, columns in tables.items()}


def flat(column):
    return [x for row in column for x in row] if isinstance(column[0], list) else column


def test_rows_are_kept_once(alone, together):
    one, two = kept_rows(alone["asyppo"]), kept_rows(together["asyppo"])
    assert list(one) == list(two) == [1, 3]
    for step, columns in one.items():
        for name, column in columns.items():
            found = two[step][name]
            assert found == (pytest.approx(column, abs=1e-4) if isinstance(column[0], float) else column), name
