"""`EngineMonitor`: how far the log-probs of an engine with weights of its own are from the trainer's."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.algorithms.choices import Guards
from rl4llm.algorithms.meter import Meter
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.kl import kl_k1, kl_k3

_GROWTH = 20.0  # multiple of the first batch's gap beyond which the engine is suspected to have missed an update
_LOST = 1000.0  # multiple of it beyond which it certainly has
_LEAST_GAP = 1e-5  # nats; rounding in float32 moves the gap below it by any factor

Gaps = dict[str, Tensor]


@torch.no_grad()
def log_prob_gaps(
    log_probs: Float[Tensor, "batch time"],
    rollout_log_probs: Float[Tensor, "batch time"],
    response_mask: Bool[Tensor, "batch time"],
) -> Gaps:
    """Return how far the engine's distribution μ is from the trainer's π at the sampled tokens.

        log_prob_gap = |log π(yₜ) − log μ(yₜ)|        kl_k1, kl_k3: estimates of KL(μ‖π), since yₜ ~ μ

    Tokens whose engine log-prob is NaN, which means not reported, are left out.

    Args:
        log_probs: log π of the trainer.
        rollout_log_probs: log μ, as the engine reported it.
        response_mask: True at sampled tokens.

    Returns:
        Numbers per sampled token, by name: "log_prob_gap", "kl_k1" and "kl_k3".

    Example:
        >>> pi, mu = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.5]])
        >>> log_prob_gaps(pi, mu, torch.tensor([[True, True]]))["log_prob_gap"]
        tensor([0.0000, 0.5000])
    """
    told = response_mask & ~rollout_log_probs.isnan()
    engine, trainer = rollout_log_probs.to(log_probs.dtype), log_probs
    return {
        "log_prob_gap": (trainer - engine).abs()[told],
        "kl_k1": kl_k1(engine, trainer, told)[told],
        "kl_k3": kl_k3(engine, trainer, told)[told],
    }


class EngineMonitor:
    """Measures an engine against the trainer, warns of a gap that is unusual, and ends a run whose engine is wrong.

    A run whose engine misses the weights of an update goes on as if nothing had happened: its responses are good text,
    and its log-probs are those of another policy. The gap shows it. All ranks call this with the same gathered batch,
    so they warn and stop together.

    Args:
        guards: Its `engine_gap_warning` and `engine_gap_error` are the gaps that are too large.
        warn: `warn(key, message)` says a message once per key.
    """

    def __init__(self, guards: Guards, warn: Callable[[str, str], None]) -> None:
        self.guards, self.warn = guards, warn
        self.first: float | None = None

    def observe(self, rows: RolloutBatch, log_probs: Tensor, *, version: int, meter: Meter) -> None:
        """Measure one batch, before anything learns from it.

        Args:
            rows: Fresh responses.
            log_probs: Log-probs that the trainer gives them.
            version: Version of the trainer's weights, which the engine was given last.
            meter: Receives the metrics.

        Raises:
            UsageError: If the mean gap exceeds `guards.engine_gap_error`, or a thousand times that of the first batch.
        """
        self._check_versions(rows, version)
        gaps = log_prob_gaps(log_probs, rows.rollout_log_probs, rows.response_mask)
        gap = gaps["log_prob_gap"]
        if not len(gap):
            if rows.response_mask.any():
                self.warn("engine/silent", "the engine reports no log-probs, so weights that it missed go unnoticed.")
            return
        meter.add("rollout/log_prob_gap_mean", gap)
        meter.add("rollout/log_prob_gap_max", gap.max().reshape(1))
        for name in ("kl_k1", "kl_k3"):
            meter.add(f"rollout/{name}", gaps[name])
        self._judge(float(gap.float().mean()))

    def _check_versions(self, rows: RolloutBatch, version: int) -> None:
        versions = rows.policy_version
        if versions is None or bool((versions == version).all()):
            return
        others = versions[versions != version]
        self.warn(
            "engine/version",
            f"the engine drew {len(others)} of {len(rows)} responses with weights of version {int(others[0])}, and the "
            f"policy is at version {version}: it has not taken over the weights of the last update. These responses "
            "count as off-policy; let Engine.sync load every tensor and set the version before it returns.",
        )

    def _judge(self, gap: float) -> None:
        most, usual = self.guards.engine_gap_error, self.guards.engine_gap_warning
        found = f"the engine's log-probs differ from the trainer's by {gap:.2g} nats per token on average"
        if most is not None and not gap <= most:
            raise UsageError(
                f"{found}, more than guards.engine_gap_error={most:g}: it draws with other weights than the policy's, "
                "or computes something else. Let its sync load every tensor, tied ones too; if the gap is meant, "
                "raise --model.guards.engine_gap_error."
            )
        self.first = gap if self.first is None else self.first
        floor = max(self.first, _LEAST_GAP)
        grown = f"{found}, and by {self.first:.2g} on the first batch"
        if most is not None and gap > _LOST * floor:
            raise UsageError(
                f"{grown}: it has missed the weights of an update. Let its sync load every tensor, tied ones too; if "
                "the gap is meant, set --model.guards.engine_gap_error=null."
            )
        if usual is not None and gap > usual:
            self.warn(
                "engine/gap",
                f"{found}, more than guards.engine_gap_warning={usual:g}. Use the same dtype in the engine and the "
                "trainer, or set --model.correction=TruncatedImportance.",
            )
        elif usual is not None and gap > _GROWTH * floor:
            message = f"{grown}: it may have missed the weights of an update. Watch rollout/log_prob_gap_mean."
            self.warn("engine/growth", message)
