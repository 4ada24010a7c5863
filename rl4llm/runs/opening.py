"""The first lines of a run: which parts train with which seed, and from where."""

from collections.abc import Iterable
from typing import Any

from rl4llm.progress import wrapped
from rl4llm.runs.resume import Resumed

_COLUMNS = 79


def opening(recipe: str, seed: int | None, parts: Iterable[tuple[str, Any]], resumed: Resumed | None = None) -> str:
    """Return what is printed before a run begins, the parts in lines of at most 79 columns.

    Args:
        recipe: The recipe's name.
        seed: Seed of the run; None if there is none.
        parts: The parts of the algorithm by slot.
        resumed: The checkpoint from which the run goes on, if it does.

    Example:
        >>> print(opening("grpo", 0, [("gate", "AgreementGate")]))
        grpo, seed 0
          gate 'AgreementGate'
    """
    lines, known = [], list(parts)
    if resumed is not None:
        how = "with the configuration saved there" if resumed.config else "with the configuration given"
        lines.append(f"{recipe}: goes on from {resumed.checkpoint}, {how}; flags given now override it.")
    lines.append(recipe if seed is None else f"{recipe}, seed {seed}")
    column = max((len(slot) for slot, _ in known), default=0)
    shown = [wrapped(f"  {slot:{column}} {_named(part)}", _COLUMNS, indent=column + 1) for slot, part in known]
    return "\n".join([*lines, *shown])


def _named(part: Any) -> str:
    """Return how a part is written, or the name of its class if it is written with its address in memory."""
    return repr(part) if " object at 0x" not in repr(part) else f"{type(part).__name__}()"
