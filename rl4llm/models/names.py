"""From a model's name to the place where `from_pretrained` finds it."""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

from rl4llm.checks import UsageError

EMBEDDED = Path(__file__).parent / "embedded"
_PREFIX = "rl4llm/"
_PORTS = {"http": 80, "https": 443}


def resolve_model(name: str) -> str:
    """Return what `from_pretrained` takes: a folder for `rl4llm/<x>`, which is embedded, and any other name unchanged.

    Raises:
        UsageError: If an embedded model or a local folder does not exist or holds no config.json.
    """
    if name.startswith(_PREFIX):
        folder = EMBEDDED / name.removeprefix(_PREFIX)
        if not (folder / "config.json").is_file():
            known = ", ".join(sorted(_PREFIX + path.parent.name for path in EMBEDDED.glob("*/config.json")))
            raise UsageError(f"model '{name}' is not embedded in the package; the embedded models are {known}.")
        return str(folder)
    path = Path(name).expanduser()
    looks_local = path.is_dir() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not (path / "config.json").is_file():
        what = "has no config.json" if path.is_dir() else "is no folder" if path.exists() else "does not exist"
        raise UsageError(f"model folder '{name}' {what}; pass a folder that save_pretrained wrote, or a hub name.")
    return str(path) if looks_local else name


def access(name: str, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Return options for `from_pretrained`: run a model's own code only if asked, never ask a hub that is unreachable.

    Without the second, `huggingface_hub` tries each file for 23 seconds on a machine without a network.
    """
    local = Path(resolve_model(name)).is_dir()
    return {"trust_remote_code": trust_remote_code, "local_files_only": local or not hub_reachable()}


@cache
def hub_reachable(timeout_s: float = 5.0) -> bool:
    """Return whether the hub accepts a connection; behind a proxy, assume that it does."""
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    if getproxies():
        return True
    place = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((place.hostname, place.port or _PORTS[place.scheme]), timeout=timeout_s).close()
    except OSError:
        return False
    return True
