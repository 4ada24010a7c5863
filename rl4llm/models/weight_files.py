"""Weight files of a local folder: present and whole, by their headers alone."""

import json
from pathlib import Path

from rl4llm.checks import UsageError
from rl4llm.models.names import resolve_model
from rl4llm.models.outline import loads_outlines
from rl4llm.models.pretrained import Pretrained

_INDEX = "model.safetensors.index.json"
_OTHER_FORMATS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_LENGTH_BYTES = 8


def check_files(model: Pretrained) -> None:
    """Raise if a weight file of a local model is missing, empty or cut off; only the files' headers are read.

    Raises:
        UsageError: Naming the file.
    """
    folder = Path(resolve_model(model.name))
    if not folder.is_dir():
        return
    shards = _shards(folder, model.name)
    if not shards and not loads_outlines() and not any((folder / name).is_file() for name in _OTHER_FORMATS):
        raise UsageError(f"model folder '{model.name}' holds no weights; save them with model.save_pretrained(folder).")
    for shard in shards:
        if not shard.is_file():
            raise UsageError(f"model '{model.name}': the weight file {shard} is missing; copy the folder again.")
        if shard.stat().st_size != announced_size(shard):
            raise UsageError(f"model '{model.name}': the weight file {shard} is damaged or cut off; copy it again.")


def _shards(folder: Path, name: str) -> list[Path]:
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else []
    try:
        return [folder / shard for shard in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"model '{name}': {index} is no index of weight files; copy the folder again.") from error


def announced_size(path: Path) -> int:
    """Size that a safetensors file should have by its own header; -1 where the header cannot be read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > path.stat().st_size:
            return -1
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            return -1
    return _LENGTH_BYTES + length + max(ends, default=0)
