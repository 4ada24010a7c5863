"""`CollapseWatch`: says once, and early, that a run has stopped learning, and what to try."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

_LEARNING_RATE = "lower --model.optimizer.lr"
Window = list[Mapping[str, float]]


class CollapseWatch(Callback):
    """Warns once per sign of collapse that has held for a number of rollout batches.

    The signs are a reward that is the same for all responses, an entropy near 0 or near that of a uniform policy,
    responses that all reach the length limit, a gate that keeps almost nothing or has drifted far from where it began,
    a policy without gradient, and critics that have lost the returns. When training ends, half a window is enough, so
    that a short run does not end in silence.

    Args:
        window: Rollout batches for which a sign must hold.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self.step = -1
        self.seen: deque[Mapping[str, float]] = deque(maxlen=window)
        self.first: Window = []
        self.said: list[str] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the metrics of this rollout batch and those before."""
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if "train/reward" not in numbers or trainer.global_step == self.step:
            return  # a call without a step, as of dynamic sampling, shows the metrics of the step before
        self.step = trainer.global_step
        self.seen.append(numbers)
        if len(self.first) < self.window:
            self.first.append(numbers)
        self._look(trainer, pl_module, self.window)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, at the last half window."""
        self._look(trainer, pl_module, (self.window + 1) // 2)

    def _look(self, trainer: Trainer, pl_module: LightningModule, batches: int) -> None:
        if len(self.seen) < batches:
            return
        latest = list(self.seen)[-batches:]
        config = getattr(getattr(getattr(pl_module, "policy", None), "model", None), "config", None)
        size = getattr(config, "vocab_size", 0) or 0
        for sign, check in _SIGNS.items():
            message = None if sign in self.said else check(latest, self.first, size)
            if message:
                self.said.append(sign)
                rank_zero_warn(f"{message} (over the last {batches} rollout batches, step {trainer.global_step}).")

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen and said."""
        return {"seen": [dict(n) for n in self.seen], "first": [dict(n) for n in self.first], "said": list(self.said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what had been seen and said."""
        self.seen = deque(state_dict["seen"], maxlen=self.window)
        self.first, self.said = list(state_dict["first"]), list(state_dict["said"])


def _column(window: Window, name: str) -> list[float]:
    return [numbers[name] for numbers in window if name in numbers]


def _flat_reward(seen: Window, first: Window, vocabulary: int) -> str | None:
    rewards = _column(seen, "train/reward")
    if max(rewards) - min(rewards) > 1e-9:
        return None
    if _column(seen, "train/accuracy")[-1:] == [1.0]:
        return f"train/reward has been {rewards[0]:.3g} throughout: the task is solved; stop, or take harder prompts"
    return (
        f"train/reward has been {rewards[0]:.3g} throughout, so nothing tells good responses from bad ones; "
        f"{_LEARNING_RATE} if it fell to this, take easier prompts if it never rose, or look at the reward"
    )


def _entropy(seen: Window, first: Window, vocabulary: int) -> str | None:
    entropies = _column(seen, "policy/entropy")
    if len(entropies) < len(seen):
        return None
    if max(entropies) < 1e-3:
        return (
            f"policy/entropy is {entropies[-1]:.1e}: the policy always says the same; {_LEARNING_RATE}, or raise the "
            "entropy bonus or --model.sampling.temperature"
        )
    if vocabulary > 1 and min(entropies) > 0.95 * math.log(vocabulary):
        return (
            f"policy/entropy is {entropies[-1]:.2f}, as high as that of a policy that draws every token with the same "
            f"probability ({math.log(vocabulary):.2f}); {_LEARNING_RATE} or the entropy bonus"
        )
    return None


def _length(seen: Window, first: Window, vocabulary: int) -> str | None:
    truncated = _column(seen, "train/truncated_share")
    if len(truncated) < len(seen) or min(truncated) < 0.95:
        return None
    return (
        f"{truncated[-1]:.0%} of the responses reach the length limit; raise --model.sampling.max_response_tokens, or "
        f"{_LEARNING_RATE} if they used to end"
    )


def _gate(seen: Window, first: Window, vocabulary: int) -> str | None:
    shares = _column(seen, "policy/gated_share")
    if len(shares) < len(seen):
        return None
    began = sum(_column(first, "policy/gated_share")) / max(1, len(_column(first, "policy/gated_share")))
    now = sum(shares) / len(shares)
    vanished = began > 0.05 and now < began / 4
    if min(shares) > 0.95 or abs(now - began) > 0.25 or vanished:
        return (
            f"policy/gated_share went from {began:.2f} to {now:.2f}: the gate no longer drops what it did; look at "
            "critics/spread, lower --model.critic_optimizer.lr, or try --model.gate=null"
        )
    return None


def _no_gradient(seen: Window, first: Window, vocabulary: int) -> str | None:
    norms = _column(seen, "grad_norm/policy")
    if len(norms) < len(seen) or max(norms) > 0.0:
        return None
    return (
        f"grad_norm/policy is 0: the policy does not learn; {_LEARNING_RATE} if it did before, or look at the "
        "advantages, the gate and the reward"
    )


def _critics(seen: Window, first: Window, vocabulary: int) -> str | None:
    explained, losses = _column(seen, "critics/explained_variance"), _column(seen, "critic_0/value_loss")
    rewards = _column(seen, "train/reward")  # of equal returns, nothing can be explained
    worse_than_constant = len(explained) == len(seen) and max(explained) < -1.0 and max(rewards) > min(rewards)
    began = _column(first, "critic_0/value_loss")[:1]
    grown = bool(began) and len(losses) == len(seen) and min(losses) > 100.0 * max(began[0], 1e-12)
    if not (worse_than_constant or grown):
        return None
    found = f"critics/explained_variance is {explained[-1]:.3g}" if worse_than_constant else ""
    found = found or f"critic_0/value_loss went from {began[0]:.3g} to {losses[-1]:.3g}"
    return f"{found}: the critics have lost the returns; lower --model.critic_optimizer.lr"


_SIGNS: Mapping[str, Callable[[Window, Window, int], str | None]] = {
    "reward": _flat_reward,
    "entropy": _entropy,
    "length": _length,
    "gate": _gate,
    "gradient": _no_gradient,
    "critics": _critics,
}
