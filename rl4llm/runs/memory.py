"""The most memory that a run has taken."""

import resource
import sys

import torch

_MIB = 2**20


def peak_memory_mib() -> float:
    """Return the most memory that this process has taken so far, in MiB.

    On a GPU this is what PyTorch has reserved there, otherwise the resident memory of the process.

    Example:
        >>> peak_memory_mib() > 1
        True
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / _MIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / _MIB if sys.platform == "darwin" else most / 1024
