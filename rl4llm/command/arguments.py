"""`CommandParser`: the arguments of a subcommand of `rl4llm`, with errors of one line."""

import argparse
from typing import Any, NoReturn

from rl4llm.errors import UsageError


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line that ends with an example.

    Args:
        command: The subcommand, such as "look".
        example: Its arguments in a call that works.
        options: Those of `argparse.ArgumentParser`.

    Example:
        >>> CommandParser("look", "runs/asyppo/version_0").error("no folder was named")
        Traceback (most recent call last):
        ...
        rl4llm.errors.UsageError: rl4llm look: no folder was named; for example: rl4llm look runs/asyppo/version_0.
    """

    def __init__(self, command: str, example: str, **options: Any) -> None:
        super().__init__(f"rl4llm {command}", allow_abbrev=False, **options)
        self.example = f"{self.prog} {example}"

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError` with the message and the example."""
        raise UsageError(f"{self.prog}: {message}; for example: {self.example}.")
