"""Notice at the start of a run: bfloat16 was asked for on a processor that is slower in it than in float32."""

import time
import warnings
from collections.abc import Callable

import torch
from lightning.pytorch.utilities import rank_zero_only

from rl4llm.models import Policy

_SLOWER = 1.1  # a ratio below it may be noise


def bfloat16_ratio() -> float:
    """Measure how many times as long a matrix product takes in bfloat16 as in float32 on this processor.

    Processors without instructions for bfloat16 convert each number. The two products alternate for some milliseconds,
    and the fastest of each counts.

    Returns:
        Seconds in bfloat16 over seconds in float32.
    """
    whole = torch.ones(128, 512), torch.ones(512, 512)
    half = tuple(matrix.bfloat16() for matrix in whole)
    seconds = [(_seconds(*half), _seconds(*whole)) for _ in range(4)]  # the first ones prepare the kernels
    narrow, wide = (min(column) for column in zip(*seconds, strict=True))
    return narrow / wide


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(left, right)
    return time.perf_counter() - began


@rank_zero_only
def warn_of_slow_bfloat16(
    policy: Policy, precision: str | int | None, measure: Callable[[], float] = bfloat16_ratio
) -> None:
    """Say in one line that float32 is faster, if the policy computes in bfloat16 on a CPU that is slower in it.

    The processor is measured, and only where bfloat16 was asked for: a processor that is fast in it gets no line.

    Args:
        policy: Whose weights say the device and may be bfloat16 themselves.
        precision: The Trainer's precision.
        measure: Gives the ratio of the times.
    """
    weight = next(iter(policy.model.parameters()))
    by_precision = str(precision).startswith("bf16")
    if weight.device.type != "cpu" or not (by_precision or weight.dtype == torch.bfloat16):
        return
    ratio = measure()
    if ratio > _SLOWER:
        faster = "--trainer.precision=32-true" if by_precision else "--model.policy.dtype=float32"
        warnings.warn(
            f"bfloat16: a matrix product takes {ratio:.1f} times as long in bfloat16 as in float32 on this processor; "
            f"use {faster}, which is faster here.",
            stacklevel=2,
        )
