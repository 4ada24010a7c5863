"""`Setting`: devices, precision and sizes of prompts, which a plan of memory needs beside the models."""

import os
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from rl4llm.checks import UsageError

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Setting:
    """Devices, precision and sizes of batches.

    Args:
        world_size: Number of processes, one per device.
        sharded: Whether weights, gradients and optimizer states are shared out over them (FSDP2).
        precision: The Trainer's precision.
        on_cpu: Whether the processes compute on a CPU.
        prompts_per_step: Prompts of a rollout batch, over all processes together.
        held_out_per_step: Prompts of a batch of an evaluation, over all processes together; 0: none is evaluated.
        prompt_tokens: Tokens of the longest prompt.
        memory: Bytes that one device has; None where nobody knows.
        libraries: Bytes that a process takes there before it builds a model.
    """

    world_size: int = 1
    sharded: bool = False
    precision: str = "32-true"
    on_cpu: bool = True
    prompts_per_step: int = 16
    held_out_per_step: int = 0
    prompt_tokens: int = 16
    memory: int | None = None
    libraries: int = 0

    @property
    def shards(self) -> int:
        """Among how many processes the weights of a model are shared out."""
        return self.world_size if self.sharded else 1


def bytes_of(text: str) -> int:
    """Return the number of bytes that a size such as `80GiB` names.

    Args:
        text: A number with a unit: KiB, MiB, GiB, TiB, or KB, MB, GB, TB.

    Raises:
        UsageError: If it is no such size.

    Example:
        >>> bytes_of("1.5GiB")
        1610612736
    """
    for unit, size in _UNITS.items():
        if text.endswith(unit):
            try:
                count = float(text.removesuffix(unit))
            except ValueError:
                break
            if 0 < count < float("inf"):
                return int(count * size)
    raise UsageError(f"--dry_run_memory: '{text}' is no size of memory; pass one such as 80GiB.")


def devices_of(trainer: Any) -> tuple[bool, int]:
    """Return whether a run computes on a CPU, and in how many processes, from the Trainer's settings alone.

    Args:
        trainer: The configuration of the Trainer, of which `accelerator`, `devices` and `num_nodes` are read. The
            devices need not be there.
    """
    accelerator, devices = str(trainer.get("accelerator") or "auto"), trainer.get("devices", "auto")
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    present = 1 if on_cpu else max(1, torch.cuda.device_count())
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    count = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else present
    return on_cpu, (present if count == -1 else count) * int(trainer.get("num_nodes") or 1)


def device_memory(on_cpu: bool, world_size: int) -> int | None:
    """Return the bytes of memory of a device of this machine, of which CPU processes each have a part.

    Args:
        on_cpu: Whether the device is the CPU.
        world_size: Number of processes.

    Returns:
        None where the machine has no such device.
    """
    if on_cpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world_size
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def process_bytes() -> int:
    """Return the most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
