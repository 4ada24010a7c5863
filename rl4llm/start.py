"""The start of a command: one line at once, and imports without pauses of the garbage collector.

Every recipe imports this module before anything else, because torch, Lightning and transformers need seconds to load.
Importing a recipe from another module has no effect: only the script that Python runs is a command.
"""

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rl4llm.progress import progress


def begin(script: str, environ: Mapping[str, str]) -> None:
    """Say on standard error what loads, and stop the garbage collector until `loaded` is called.

    The collector would walk through the millions of objects that imports create and find nothing to free. Only the
    first of several processes prints.

    Args:
        script: Path of the script.
        environ: Environment variables, which hold the rank of a process that a launcher started.

    Example:
        >>> begin("recipes/asyppo.py", {"LOCAL_RANK": "1"})  # the second process prints nothing
        >>> loaded()
    """
    gc.disable()
    progress.speak(Path(script).stem, environ)
    progress.announce("loading torch, Lightning and transformers")


def loaded() -> None:
    """Start the garbage collector again if `begin` stopped it, without what was imported."""
    progress.end()
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _importer() -> str:
    """Return the name of the module whose import statement loads this one."""
    frame = sys._getframe()
    while frame.f_back and (frame.f_globals is globals() or frame.f_code.co_filename.startswith("<frozen importlib")):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


if _importer() == "__main__":
    begin(sys.argv[0], os.environ)
