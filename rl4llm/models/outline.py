"""Models without weights: the modules of a configuration on the meta device, to be measured rather than run."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OUTLINES: ContextVar[bool] = ContextVar("outlines", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Load models from their configurations alone inside the body; no weight file needs to exist, and none is read.

    Example:
        >>> from rl4llm.models import Policy
        >>> with without_weights():
        ...     policy = Policy.load("rl4llm/digits")
        >>> next(policy.parameters()).device
        device(type='meta')
    """
    token = _OUTLINES.set(True)
    try:
        yield
    finally:
        _OUTLINES.reset(token)


def loads_outlines() -> bool:
    """Return whether models are loaded without weights now."""
    return _OUTLINES.get()
