"""Dual variables beside the steps of the policy: they forget before each, and step after it."""

from collections.abc import Callable, Mapping

from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.runtime import Runtime
from rl4llm.regularizers import DualVariable


def dual_hooks(
    duals: Mapping[str, DualVariable], runtime: Runtime, meter: Meter, after: Callable[[], None]
) -> dict[str, Callable[[], None]]:
    """Return what [improve][rl4llm.algorithms.improve.improve] calls before and after each step, by its argument.

    Args:
        duals: The dual variables, by the slot of what they weigh.
        runtime: Sums over ranks.
        meter: Receives the multipliers.
        after: What else is to be done after a step, before the dual variables'.
    """

    def before_step() -> None:
        for dual in duals.values():
            dual.forget()

    def after_step() -> None:
        after()
        for slot, dual in duals.items():
            dual.step(runtime.sum)
            meter.add(f"penalty/{slot}_multiplier", dual.multiplier.reshape(1))

    return {"before_step": before_step, "after_step": after_step}
