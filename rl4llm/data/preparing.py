"""Reading the task of a configuration before anything else of the run is built."""

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from rl4llm.data.checking import check_reward
from rl4llm.data.task import Split, Task

_SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
}


def prepare(choice: Any, command: str) -> None:
    """Build the task of a configuration, check its reward and let it check the splits that a command reads.

    What it reads is kept, so that the data module does not read it again.

    Args:
        choice: Class and settings of the task, as the command line gives them.
        command: `fit`, `validate` or `test`.

    Raises:
        UsageError: At the first fault of the task or of its data.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--task", type=Task)
    task = parser.instantiate(Namespace(task=choice)).task
    check_reward(task)
    task.prepare(_SPLITS[command])
