"""OpenRLHF without the packages that only a GPU can use, so that its own losses and estimators import on a CPU."""

import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

ABSENT = ("flash_attn", "deepspeed", "vllm")


class _Empty:
    """Finds an empty module by every name below the absent packages."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in ABSENT else None

    def create_module(self, spec):
        return MagicMock(name=spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def without_kernels():
    """Let the absent packages be imported as empty modules, and forget these afterwards."""
    finder = _Empty()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, MagicMock)]:
            del sys.modules[name]
