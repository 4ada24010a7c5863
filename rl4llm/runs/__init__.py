"""What a person sees of a run: its history, its curves, its summary."""

from rl4llm.runs.curves import draw_curves
from rl4llm.runs.history import History
from rl4llm.runs.summary import Summary

__all__ = ["History", "Summary", "draw_curves"]
