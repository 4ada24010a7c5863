"""`Health`: warns once about what goes wrong in a run, counts it, and ends a run that makes no more progress."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import nn
from torch.distributed.tensor import DTensor

from rl4llm.algorithms.choices import Guards
from rl4llm.algorithms.collect import lost_responses
from rl4llm.algorithms.meter import Meter, scalar
from rl4llm.batch import RolloutBatch
from rl4llm.checks import LARGEST_WEIGHT, UsageError

_MOST_REASONS = 5  # why responses could not be scored, told in one run


class Health:
    """Skipped steps, unscorable batches and memory budgets of one run.

    All ranks call it alike, with the same numbers, so they warn and stop together.

    Args:
        guards: When the run stops.
        folder: Where the batch is written on which the run stopped.
    """

    def __init__(self, guards: Guards, folder: Callable[[], Path]) -> None:
        self.guards, self.folder = guards, folder
        self.in_a_row: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.unscorable = 0
        self.budgets: dict[str, int] = {}
        self.said: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted so far."""
        return {"in_a_row": dict(self.in_a_row), "skipped": dict(self.skipped), "unscorable": self.unscorable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.in_a_row, self.skipped = dict(state["in_a_row"]), dict(state["skipped"])
        self.unscorable = state["unscorable"]

    def observe(self, meter: Meter) -> None:
        """Log how many steps of each part have been skipped so far."""
        for name, count in self.skipped.items():
            meter.add(f"skipped/{name}", scalar(count))

    def warn(self, key: str, message: str) -> None:
        """Warn on the first rank, once per key."""
        if key not in self.said:
            self.said.add(key)
            rank_zero_warn(message)

    def skip(self, part: str, what: str, batch: RolloutBatch) -> None:
        """Count a skipped step.

        Raises:
            UsageError: If as many steps of this part have been skipped in a row as the guards allow.
        """
        self.skipped[part] = self.skipped.get(part, 0) + 1
        self.in_a_row[part] = self.in_a_row.get(part, 0) + 1
        remedy = _remedy(part)
        self.warn(f"skip/{part}", f"{part}: {what}; the step is skipped and counted in skipped/{part}. {remedy}")
        if self.in_a_row[part] >= self.guards.skipped:
            raise UsageError(
                f"{part}: {what}; {self.in_a_row[part]} steps in a row were skipped. {remedy} "
                f"The batch is in {self._dump(batch)}; the last checkpoint is from before."
            )

    def stepped(self, part: str) -> None:
        """Note that a part made a step."""
        self.in_a_row[part] = 0

    def judged(self, learners: Collection[str]) -> None:
        """Note that all parts gave finite numbers; a learner's skipped steps count on until it makes one."""
        self.in_a_row = {part: count for part, count in self.in_a_row.items() if part in learners}

    @torch.no_grad()
    def check_weights(self, part: str, module: nn.Module, gather: Callable[[float], list[float]]) -> None:
        """Raise on all ranks before weights that have left every useful range are saved.

        Raises:
            UsageError: If a weight is not finite or beyond a million.
        """
        held = [p.to_local() if isinstance(p, DTensor) else p.detach() for p in module.parameters()]
        norms = torch._foreach_norm([tensor for tensor in held if tensor.numel()], float("inf"))
        own = float(torch.stack([norm.float() for norm in norms]).max()) if norms else 0.0
        wrong = [largest for largest in gather(own) if not largest <= LARGEST_WEIGHT]
        if wrong:
            raise UsageError(f"{part}: a weight has reached {wrong[0]:.3g}, so the model is lost. {_remedy(part)}")

    def scored(
        self,
        batch: RolloutBatch,
        problems: Mapping[str, int],
        function: Callable[..., object],
        examples: Mapping[str, str] = {},
    ) -> RolloutBatch:
        """Return the batch, say why the reward function could not score some of it, and stop when it can score nothing.

        Raises:
            UsageError: If no response could be scored in as many rollout batches in a row as the guards allow.
        """
        reward = getattr(function, "__name__", type(function).__name__)
        lost, total = int(batch.scores.isnan().sum()), len(batch)
        for reason, count in problems.items():
            key = f"score/{reason.partition(',')[0]}"
            said = sum(other.startswith("score/") for other in self.said)
            if said >= _MOST_REASONS and key not in self.said:
                self.warn(
                    "more reasons", f"reward '{reward}' keeps failing for new reasons, of which no more are listed."
                )
                break
            self.warn(key, lost_responses(reward, count, total, reason, examples.get(reason), "train"))
        self.unscorable = self.unscorable + 1 if total and lost == total else 0
        if self.unscorable >= self.guards.unscorable:
            reasons = "; ".join(problems) or "no reason given"
            raise UsageError(
                f"reward '{reward}' could not score any response of {self.unscorable} rollout batches in a row "
                f"({reasons}); fix the reward, or raise --model.guards.unscorable."
            )
        return batch

    def budget(self, part: str, most: int) -> int:
        """Return the token budget of a microbatch of this part."""
        return self.budgets.get(part, most)

    def halve_budget(self, part: str, budget: int, error: Exception) -> None:
        """Halve the token budget after memory ran out.

        Raises:
            UsageError: If it cannot be halved any further.
        """
        if budget <= 1:
            raise UsageError(f"{part}: not even one row fits into memory ({str(error).splitlines()[0]}).") from error
        self.budgets[part] = budget // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        flag = "critic_updates" if part.startswith("critic") else "updates"
        self.warn(
            f"memory/{part}",
            f"{part}: memory ran out with microbatches of {budget} tokens; going on with half as many, as often as "
            f"needed. Set --model.{flag}.microbatch_tokens to save the attempts.",
        )

    def _dump(self, batch: RolloutBatch) -> Path:
        """Where the first rank has written the batch, or why not."""
        path = self.folder() / "skipped_batch.pt"
        if getattr(rank_zero_only, "rank", 0) == 0:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save({name: tensor.cpu() for name, tensor in batch.tensors().items()}, path)
            except (OSError, RuntimeError) as error:
                return Path(f"(not written: {error})")
        return path


def _remedy(part: str) -> str:
    if part == "policy":
        return "Lower --model.optimizer.lr, or look for extreme rewards and log-probs."
    if part.startswith("critic"):
        return "Lower --model.critic_optimizer.lr."
    return "Look for weights that are not finite in the model."
