"""`source_digest`: which source code an arm runs, so that numbers of other code are told apart."""

import hashlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from rl4llm.studies.resolve import Resolved

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_LIBRARY = Path(__file__).parents[1]


def source_digest(resolved: Resolved) -> str:
    """Return a digest of the library, the recipe file, and the user's own modules that the configuration names.

    Args:
        resolved: The arm; resolving it has imported the modules.
    """
    digest = hashlib.sha256(_library_digest().encode())
    for path in [resolved.script, *sorted(set(_own_modules(resolved.config)))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _library_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(_LIBRARY.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _own_modules(config: str) -> Iterator[Path]:
    """Yield the files of modules in the present folder that hold a class or function of the configuration."""
    for name in _DOTTED.findall(config):
        module = sys.modules.get(name.rpartition(".")[0])
        file = Path(getattr(module, "__file__", None) or sys.executable)
        outside = file.is_relative_to(_LIBRARY) or file.is_relative_to(sys.prefix)
        if file.suffix == ".py" and file.is_relative_to(Path.cwd()) and not outside:
            yield file
