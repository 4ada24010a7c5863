"""Process-wide settings of every command: parsing, the import path, warnings and logs."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import transformers
from jsonargparse import set_parsing_settings
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from rl4llm import critics, start
from rl4llm.advantages import Whiten
from rl4llm.cli_errors import one_warning
from rl4llm.rollouts import DynamicSampling

_QUIET = (
    ".*does not have many workers.*",
    ".*exists and is not empty. Previous log files.*",
    ".*LeafSpec.*",
    ".*Consider setting `persistent_workers.*",
    ".*args parameter is intended to run from within Python.*",
    ".*It is recommended to use .self.log.*sync_dist=True.*",  # every rank logs the numbers of all ranks
    ".*Checkpoint directory .* exists and is not empty.*",
)
_TALKATIVE = ("lightning.pytorch", "lightning.fabric")  # what they tell, a run says itself


def prepare_process() -> None:
    """Set up parsing, the import path, and how warnings and logs are shown."""
    start.loaded()
    set_parsing_settings(subclasses_enabled=[Whiten, DynamicSampling])  # plain dataclasses take none by default
    for name in critics.__all__:
        getattr(critics, name)  # a class is known by its short name once it is loaded, and some load on first use
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # where the user's own classes lie; a script brings only its own folder
    transformers.utils.logging.disable_progress_bar()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _QUIET:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = one_warning


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for what this process launches, and restore them afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def rank() -> int:
    """Return this process's place among all; Lightning reads it from the environment before anything is set up."""
    return int(getattr(rank_zero_only, "rank", 0))
