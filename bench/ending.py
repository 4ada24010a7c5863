"""`end_in_one_line`: the end of a command of this folder."""

import sys
from collections.abc import Callable

from rl4llm.checks import UsageError


def end_in_one_line(main: Callable[[], None]) -> None:
    """Run a command, and leave with one line and status 1 where it refuses its arguments.

    Args:
        main: The command.

    Raises:
        SystemExit: If it raises a `UsageError`.
    """
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
