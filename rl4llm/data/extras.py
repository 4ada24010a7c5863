"""Optional packages: imported when they are needed; a missing one is an error of one line."""

from importlib import import_module
from typing import Any

from rl4llm.checks import UsageError


def needed(module: str, purpose: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Args:
        module: Name of the module.
        purpose: What it is for; beginning of the message.
        extra: The extra that installs it.

    Raises:
        UsageError: If it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise UsageError(f"{purpose} needs the package {package}; run pip install 'rl4llm[{extra}]'.") from error
