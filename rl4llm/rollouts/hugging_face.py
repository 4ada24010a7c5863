"""`HuggingFaceRollout`: responses from the policy's own module, with the cache of a prefix computed once per prefix."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from rl4llm.checks import UsageError, check_at_least
from rl4llm.models import Policy
from rl4llm.models.guard import evaluating
from rl4llm.models.loading import accepts
from rl4llm.models.prefixes import for_model, positions
from rl4llm.rollouts.base import Engine, EngineSpec, check_request
from rl4llm.rollouts.drawing import Drawn, draw, response_uniforms
from rl4llm.rollouts.responses import Responses
from rl4llm.rollouts.sampling import Sampling


@dataclass(frozen=True)
class HuggingFaceRollout(EngineSpec):
    """Responses from the policy's own Hugging Face model, in this process and with no further software.

    Args:
        rows_at_once: Maximum number of responses generated side by side. It bounds memory and changes no response.
        top_log_probs: How many of the likeliest tokens to report at each position, for divergences over them.
    """

    rows_at_once: int = 1024
    top_log_probs: int = 0

    def __post_init__(self) -> None:
        check_at_least("HuggingFaceRollout", 1, rows_at_once=self.rows_at_once)
        check_at_least("HuggingFaceRollout", 0, top_log_probs=self.top_log_probs)

    def build(self, policy: Policy) -> "HuggingFaceEngine":
        """Return an engine that shares the policy's module."""
        return HuggingFaceEngine(policy, rows_at_once=self.rows_at_once, top_log_probs=self.top_log_probs)


class HuggingFaceEngine(Engine):
    """The engine of [HuggingFaceRollout][rl4llm.rollouts.hugging_face.HuggingFaceRollout].

    The key-value cache of a prefix is computed once and shared by its responses; log-probs and entropies come out of
    the sampling pass; rows that have ended leave the batch. A sharded policy must be gathered around `generate`.

    Args:
        policy: Whose module draws.
        rows_at_once: Maximum number of responses generated side by side.
        top_log_probs: How many of the likeliest tokens to report at each position.
    """

    def __init__(self, policy: Policy, *, rows_at_once: int = 1024, top_log_probs: int = 0) -> None:
        self.policy, self.rows_at_once, self.top_log_probs = policy, rows_at_once, top_log_probs
        self.version, self.closed = -1, False

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
        with evaluating(self.policy):
            for some, first, count in _portions(len(ids), copies, self.rows_at_once):
                uniforms = response_uniforms(seeds[some], bounds[some], copies=count, first=first)
                generation = _Generation(self.policy, sampling, _moved(uniforms, ids.device), self.top_log_probs)
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


def _moved(uniforms: Tensor, device: torch.device) -> Tensor:
    return uniforms.to(device, torch.float32 if device.type == "mps" else torch.float64)  # MPS has no float64


class _Generation:
    """One run's state: what has been written so far, and the cache of the rows that have not ended."""

    def __init__(self, policy: Policy, sampling: Sampling, uniforms: Tensor, top: int) -> None:
        self.policy, self.sampling, self.uniforms, self.top = policy, sampling, uniforms, top
        self.cache = DynamicCache(config=policy.model.config)
        self.options = {"logits_to_keep": 1} if accepts(policy.model, "logits_to_keep") else {}

    def run(self, ids: Tensor, mask: Tensor, limits: Tensor, copies: int, version: int) -> Responses:
        """Draw until every row has ended or is full."""
        start = int(mask.long().argmax(-1).min())  # columns that are padding in every row
        ids, self.mask = ids[:, start:], mask[:, start:]
        logits = self._forward(ids, positions(self.mask)).repeat_interleave(copies, dim=0)
        self.top = min(self.top, logits.shape[-1])
        self.cache.batch_repeat_interleave(copies)
        self.mask = self.mask.repeat_interleave(copies, dim=0)
        self._make_room(limits.repeat_interleave(copies).to(ids.device))
        for step in range(self.uniforms.shape[1]):
            drawn = draw(logits, self.sampling, self.uniforms[self.active, step], top=self.top)
            tokens = self._write(drawn, step)
            if not len(self.active):
                break
            self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=-1)
            logits = self._forward(tokens[:, None], positions(self.mask)[:, -1:])
        return self._responses(version)

    def _make_room(self, limits: Tensor) -> None:
        device, shape = limits.device, self.uniforms.shape
        self.limits, self.active = limits, torch.arange(len(limits), device=device)
        self.tokens = torch.full(shape, self.policy.pad_id, device=device)
        self.log_probs, self.entropies = torch.zeros(2, *shape, device=device)
        self.lengths = torch.zeros(len(limits), dtype=torch.long, device=device)
        self.ended = torch.zeros(len(limits), dtype=torch.bool, device=device)
        self.end_ids = torch.tensor(self.policy.end_ids, device=device, dtype=torch.long)
        self.top_ids = torch.zeros(*shape, self.top, dtype=torch.long, device=device)
        self.top_log_probs = torch.zeros(*shape, self.top, device=device)

    def _forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": self.mask.long(), "position_ids": position_ids}
        model = self.policy.model
        output = model(**for_model(model, inputs), **self.options, past_key_values=self.cache, use_cache=True)
        return output.logits[:, -1]

    def _write(self, drawn: Drawn, step: int) -> Tensor:
        self.tokens[self.active, step] = drawn.tokens
        self.log_probs[self.active, step] = drawn.log_probs
        self.entropies[self.active, step] = drawn.entropies
        self.top_ids[self.active, step], self.top_log_probs[self.active, step] = drawn.top_ids, drawn.top_log_probs
        self.lengths[self.active] = step + 1
        ends = torch.isin(drawn.tokens, self.end_ids)
        self.ended[self.active] = ends
        stops = ends | (self.limits[self.active] == step + 1)
        if not stops.any():
            return drawn.tokens
        going = (~stops).nonzero()[:, 0]
        self.active, self.mask = self.active[going], self.mask[going]
        if len(going):
            self.cache.batch_select_indices(going)
        return drawn.tokens[going]

    def _responses(self, version: int) -> Responses:
        self._check_finite()
        time = int(self.lengths.max())
        columns = torch.arange(time, device=self.lengths.device)
        top = (self.top_ids[:, :time], self.top_log_probs[:, :time]) if self.top else (None, None)
        return Responses(
            self.tokens[:, :time],
            columns
            < self.lengths[:, None],  # from lengths, not ids: the first end counts even where padding is the same token
            self.ended,
            self.log_probs[:, :time],
            torch.full_like(self.lengths, version),
            self.entropies[:, :time],
            *top,
        )

    def _check_finite(self) -> None:
        broken = (~self.log_probs.isfinite()).any(-1)
        if broken.any():
            raise UsageError(
                f"HuggingFaceEngine: the policy's logits are NaN or infinite in {int(broken.sum())} of {len(broken)} "
                "responses, so its weights or activations are; go on from an earlier checkpoint, lower the learning "
                "rate, or use bfloat16 or float32 in place of float16."
            )
