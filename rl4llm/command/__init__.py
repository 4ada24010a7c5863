"""The command `rl4llm`: recipes and tools by name, wherever the package is installed."""

from rl4llm.command.main import main

__all__ = ["main"]
