"""`HuggingFaceRollout`: responses from the policy's own module, with the cache of a prefix computed once per prefix."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least
from rl4llm.models import Policy
from rl4llm.models.guard import evaluating
from rl4llm.rollouts.base import Engine, EngineSpec, check_request
from rl4llm.rollouts.drawing import response_uniforms
from rl4llm.rollouts.generation import Generation
from rl4llm.rollouts.responses import Responses
from rl4llm.rollouts.sampling import Sampling


@dataclass(frozen=True)
class HuggingFaceRollout(EngineSpec):
    """Responses from the policy's own Hugging Face model, in this process and with no further software.

    Args:
        rows_at_once: Maximum number of responses generated side by side. It bounds memory and changes no response.
        top_log_probs: How many of the likeliest tokens to report at each position, for divergences over them.
        look_every: Tokens from one look at which responses have ended to the next; None: 1 on a CPU and 8 elsewhere,
            where each look waits for the device. It changes no response.
    """

    rows_at_once: int = 1024
    top_log_probs: int = 0
    look_every: int | None = None

    def __post_init__(self) -> None:
        check_at_least("HuggingFaceRollout", 1, rows_at_once=self.rows_at_once, look_every=self.look_every)
        check_at_least("HuggingFaceRollout", 0, top_log_probs=self.top_log_probs)

    def build(self, policy: Policy) -> "HuggingFaceEngine":
        """Return an engine that shares the policy's module."""
        return HuggingFaceEngine(
            policy, rows_at_once=self.rows_at_once, top_log_probs=self.top_log_probs, look_every=self.look_every
        )


class HuggingFaceEngine(Engine):
    """The engine of [HuggingFaceRollout][rl4llm.rollouts.hugging_face.HuggingFaceRollout].

    The key-value cache of a prefix is computed once and shared by its responses; log-probs and entropies come out of
    the sampling pass; rows that have ended leave the batch. A sharded policy must be gathered around `generate`.

    Args:
        policy: Whose module draws.
        rows_at_once: Maximum number of responses generated side by side.
        top_log_probs: How many of the likeliest tokens to report at each position.
        look_every: Tokens from one look at which responses have ended to the next.
    """

    own_weights = False

    def __init__(
        self, policy: Policy, *, rows_at_once: int = 1024, top_log_probs: int = 0, look_every: int | None = None
    ) -> None:
        self.policy, self.rows_at_once, self.top_log_probs = policy, rows_at_once, top_log_probs
        self.look_every, self.version, self.closed = look_every, -1, False

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """Whether neither weights nor autocast use less than float32."""
        weight = next(iter(self.policy.model.parameters()))
        return weight.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(weight.device.type)

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Remember the version. The weights are the policy's own and are not read."""
        self._check_open()
        self.version = version

    def generate(
        self,
        ids: Tensor,
        mask: Tensor,
        limits: Tensor,
        *,
        copies: int,
        sampling: Sampling,
        seeds: Tensor,
    ) -> Responses:
        """Draw `copies` responses to every prefix; those of one prefix stand together."""
        self._check_open()
        check_request(ids, mask, limits, seeds, copies=copies)
        bounds, pieces = limits.cpu(), []
        chosen = {"top": self.top_log_probs, "look_every": self.look_every or _look_every(ids.device)}
        with evaluating(self.policy.model), self.policy.computing():
            for some, first, count in _portions(len(ids), copies, self.rows_at_once):
                uniforms = response_uniforms(seeds[some], bounds[some], copies=count, first=first)
                generation = Generation(self.policy, sampling, _moved(uniforms, ids.device), **chosen)
                pieces.append(generation.run(ids[some], mask[some], bounds[some], count, self.version))
        return Responses.cat(pieces) if pieces else self._nothing(ids.device)

    def close(self) -> None:
        """Refuse further calls. The policy's module stays as it is."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(
                "HuggingFaceEngine: the engine is closed; build a new one with HuggingFaceRollout().build."
            )

    def _nothing(self, device: torch.device) -> Responses:
        """No response at all, with every field that a response would have."""
        top = min(self.top_log_probs, self.policy.model.config.get_text_config().vocab_size)
        whole, real = (torch.zeros(0, 0, dtype=dtype, device=device) for dtype in (torch.long, torch.float))
        flag = whole.bool()
        tops = (whole[..., None].expand(0, 0, top), real[..., None].expand(0, 0, top)) if top else (None, None)
        return Responses(whole, flag, flag.any(-1), real, whole.sum(-1), real, *tops)


def _portions(prefixes: int, copies: int, rows_at_once: int) -> Iterator[tuple[slice, int, int]]:
    """Which prefixes, from which copy on, and how many copies to draw side by side, in the order of the rows."""
    step = max(1, rows_at_once // copies)
    for start in range(0, prefixes, step):
        for first in range(0, copies, rows_at_once):
            yield slice(start, start + step), first, min(rows_at_once, copies - first)


def _look_every(device: torch.device) -> int:
    return 1 if device.type == "cpu" else 8


def _moved(uniforms: Tensor, device: torch.device) -> Tensor:
    return uniforms.to(device, torch.float32 if device.type == "mps" else torch.float64)  # MPS has no float64
