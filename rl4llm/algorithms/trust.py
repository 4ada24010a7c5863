"""`EngineTrust`: whether the engine's log-probs can replace a forward pass of the trainer."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rl4llm.rollouts import Engine

MOST = 1e-3  # mean distance in nats up to which an engine's log-probs count as the policy's own


class EngineTrust(nn.Module):
    """Decision whether `old_log_probs` are taken from the engine, which saves a pass over the rollout batch.

    An engine that samples with the policy's own weights in float32 or wider has already computed these numbers, up to
    rounding. The first optimizer step recomputes the log-probs of its own rows in any case, so the distance to the
    engine's is measured on every batch and logged as `policy/engine_difference`. An engine that is too far off is no
    longer trusted; checkpoints remember that.

    Args:
        choice: True trusts every engine and False none; None trusts an engine whose `exact` is True.
        corrected: Whether a correction compares the engine's log-probs with the trainer's and so needs both.
    """

    def __init__(self, choice: bool | None, *, corrected: bool) -> None:
        super().__init__()
        self.choice, self.corrected, self.lost = choice, corrected, False

    def forward(self, engine: Engine, precision: str | int | None) -> bool:
        """Return whether this engine is trusted under this precision of the Trainer."""
        if self.choice is not None:
            return self.choice
        wide = str(precision).startswith(("32", "64"))  # a strategy may cast weights that the engine sees in float32
        return engine.exact and wide and not self.corrected and not self.lost

    def observe(self, means: Mapping[str, Tensor]) -> None:
        """Stop trusting the engine if the metrics of a step, equal on all ranks, show too large a distance."""
        difference = means.get("policy/engine_difference")
        if self.choice is not None or self.lost or difference is None or not float(difference) > MOST:
            return
        self.lost = True
        warnings.warn(
            f"the engine's log-probs differ from the trainer's by {float(difference):.2g} nats on average, so the "
            "trainer computes them itself from now on, at the cost of one more pass per step.",
            stacklevel=2,
        )

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores: whether trust was lost."""
        return {"lost": torch.tensor(self.lost)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.lost = bool(state["lost"])
