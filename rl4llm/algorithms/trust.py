"""Whether the engine's log-probs stand for the trainer's, which saves a pass over the rollout batch."""

import warnings
from collections.abc import Mapping

from torch import Tensor

from rl4llm.rollouts import Engine

MOST = 1e-3  # mean distance in nats up to which an engine's log-probs are the policy's own


class EngineTrust:
    """Decides at each rollout batch whether `old_log_probs` are taken from the engine.

    An engine that samples with the policy's own weights in float32 or wider has computed them already, up to rounding;
    to compute them again would cost a forward pass over the batch. The first optimizer step computes the log-probs of
    its rows anyway, so that the distance to the engine's is measured on every batch and logged
    (`policy/engine_difference`). An engine that is too far off is no longer trusted.

    Args:
        choice: True trusts any engine and False none; None trusts those that say that their numbers are the policy's.
        corrected: Whether a correction compares the engine's log-probs with the trainer's, which must then exist.
    """

    def __init__(self, choice: bool | None, *, corrected: bool) -> None:
        self.choice, self.corrected, self.lost = choice, corrected, False

    def __call__(self, engine: Engine, precision: str | int | None) -> bool:
        """Whether this engine is trusted now, under this precision of the Trainer."""
        if self.choice is not None:
            return self.choice
        wide = str(precision).startswith(("32", "64"))  # a strategy may narrow the weights out of the engine's sight
        return engine.exact and wide and not self.corrected and not self.lost

    def observe(self, means: Mapping[str, Tensor]) -> None:
        """Look at the metrics of a step, the same on every rank."""
        difference = means.get("policy/engine_difference")
        if self.choice is not None or self.lost or difference is None or not float(difference) > MOST:
            return
        self.lost = True
        warnings.warn(
            f"the engine's log-probs differ from the trainer's by {float(difference):.2g} nats on average, so the "
            "trainer computes them itself from now on, which takes one more pass a step.",
            stacklevel=2,
        )
