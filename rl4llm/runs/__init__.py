"""The run folder and how a run starts, goes on and ends: metrics, curves, summary, signals, errors."""

from rl4llm.runs.curves import draw_curves
from rl4llm.runs.folder import check_writable, claim_folder
from rl4llm.runs.history import History
from rl4llm.runs.loggers import Logbook, ResumableCSVLogger
from rl4llm.runs.stopping import RunStopped
from rl4llm.runs.summary import Summary

__all__ = [
    "History",
    "Logbook",
    "ResumableCSVLogger",
    "RunStopped",
    "Summary",
    "check_writable",
    "claim_folder",
    "draw_curves",
]
