"""The run folder and how a run starts, goes on and ends: metrics, curves, summary, checkpoints, signals, errors."""

from rl4llm.runs.atomic import write_atomically
from rl4llm.runs.checkpoint_files import CheckpointFiles
from rl4llm.runs.checkpoints import Checkpoints
from rl4llm.runs.curves import draw_curves
from rl4llm.runs.finding import find_last
from rl4llm.runs.first_batch import FirstBatch
from rl4llm.runs.headers import check_matches, checkpoint_header
from rl4llm.runs.history import History
from rl4llm.runs.summary import Summary

__all__ = [
    # what a person sees of a run
    "History",
    "Summary",
    "FirstBatch",
    "draw_curves",
    # what it leaves to go on from
    "CheckpointFiles",
    "Checkpoints",
    "check_matches",
    "checkpoint_header",
    "find_last",
    "write_atomically",
]
