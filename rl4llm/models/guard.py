"""A guard for passes that only look: no gradient, no dropout, and every module left in the mode it came in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Run the body without gradients and with the modules in evaluation mode.

    The mode of every submodule is restored afterwards, one by one and also when the body raises, so a part that its
    owner keeps frozen in evaluation mode stays so. Evaluation mode turns gradient checkpointing off, which would
    disable the key-value cache.

    Args:
        modules: The models of the forward passes inside.

    Example:
        >>> dropout = torch.nn.Dropout()
        >>> with evaluating(dropout):
        ...     print(dropout.training, torch.is_grad_enabled())
        False False
        >>> dropout.training, torch.is_grad_enabled()
        (True, True)
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
