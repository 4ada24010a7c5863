"""Modules of the libraries on the other side, imported when a function needs them."""

from importlib import import_module
from types import ModuleType

from rl4llm.checks import UsageError


def installed(module: str, by: str, package: str) -> ModuleType:
    """Import a module of another library.

    Args:
        module: Name of the module.
        by: Name of the function that needs it, for the message.
        package: What to install.

    Returns:
        The module.

    Raises:
        UsageError: If it cannot be imported; the message says what to install.

    Example:
        >>> installed("json", "f", "json").__name__
        'json'
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{by} needs {package}, whose {module} cannot be imported ({error}); run pip install {package}."
        ) from error
