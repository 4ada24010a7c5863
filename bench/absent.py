"""Importing this stands empty modules in the place of packages that OpenRLHF imports and that only a GPU can use.

Its losses and estimators do not call them. Whatever is installed is taken.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

PACKAGES = ("flash_attn", "vllm", "deepspeed", "ray", "pylatexenc", "torchdata")


class Absent:
    """Finds the packages, and every module below them, as modules that have every name."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in PACKAGES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


sys.meta_path.append(Absent())  # asked last
