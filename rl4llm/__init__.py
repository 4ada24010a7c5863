"""RL-for-LLM parts and recipes that compose them. Every family is loaded at first use: `rl4llm.advantages.gae`."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "advantages",
    "algorithms",
    "batch",
    "bridges",
    "citations",
    "corrections",
    "critics",
    "data",
    "gates",
    "kl",
    "linear_log_probs",
    "log_probs",
    "masked",
    "metrics",
    "models",
    "objectives",
    "regularizers",
    "replay",
    "rewards",
    "rollouts",
    "runs",
    "segments",
    "testing",
)

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
