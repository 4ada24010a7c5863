"""Model folders on the fly, and the same folders broken."""

import json
import shutil

from safetensors.torch import load_file, save_file

from rl4llm.models import Policy, TinyQwen3


def tiny(**sizes):
    """A model and tokenizer of a few thousand weights."""
    return TinyQwen3(
        **{"hidden_size": 16, "layers": 2, "heads": 2, "key_value_heads": 1, "head_size": 8, **sizes}
    ).build()


def saved(folder, **sizes):
    Policy(*tiny(**sizes)).save(folder)
    return str(folder)


def copied(source, folder):
    shutil.copytree(source, folder)
    return folder


def with_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return str(folder)


def with_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return str(folder)


def with_permuted_tokenizer(folder):
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    path.write_text(json.dumps(described))
    return str(folder)
