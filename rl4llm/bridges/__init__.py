"""Bridges to TRL, verl and OpenRLHF: their batches as ours, and our estimators and objectives in their trainers.

Nothing of these libraries is imported before a function needs it.
"""

from importlib import import_module
from typing import Any

__all__ = ["trl", "verl", "openrlhf"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
