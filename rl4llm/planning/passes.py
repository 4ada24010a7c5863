"""The passes of a rollout batch on models without content: what a run does, as far as its memory needs it."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl4llm.algorithms.deal import deal
from rl4llm.algorithms.microbatches import Averaging
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.models import Policy
from rl4llm.models.guard import evaluating
from rl4llm.objectives import TokenMean
from rl4llm.planning.watch import MemoryWatch
from rl4llm.rollouts import Sampling
from rl4llm.rollouts.cache import ResponseCache, RoomyLayer
from rl4llm.rollouts.drawing import draw
from rl4llm.rollouts.generation import Generation


def longest_batch(prompts: int, copies: int, prompt_tokens: int, response_tokens: int) -> RolloutBatch:
    """Return a batch in which every prompt and every response is as long as it may be; no two rows are equal."""
    rows = prompts * copies

    def constant(value: Any, *shape: int) -> Tensor:
        return torch.tensor(value).reshape([1] * len(shape)).expand(shape)

    real = constant(0.0, rows, response_tokens)
    groups = torch.arange(prompts).repeat_interleave(copies)
    # Equal rows would run once. Prompts are told apart by their number, and responses to one prompt by theirs, whose
    # binary digits are tokens of any vocabulary.
    ids = groups[:, None].expand(rows, prompt_tokens)
    digits = torch.arange(response_tokens).clamp(max=62)
    responses = (torch.arange(copies).repeat(prompts)[:, None] >> digits) & 1
    return RolloutBatch(
        prompt_ids=ids,
        prompt_mask=constant(True, rows, prompt_tokens),
        response_ids=responses,
        response_mask=constant(True, rows, response_tokens),
        group_ids=groups,
        prompt_uids=groups,
        scores=constant(0.0, rows),
        truncated=constant(True, rows),
        rewards=real,
        rollout_log_probs=real,
        old_log_probs=real,
    )


def widest_pieces(
    batch: RolloutBatch, updates: Updates, world_size: int, budget: int, *, whole_groups: bool, shared: bool
) -> list[RolloutBatch]:
    """Return the largest microbatch of an optimizer step, twice if gradients of several are accumulated."""
    averaging, random = Averaging((TokenMean(),)), torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"world_size": world_size, "whole_groups": whole_groups, "shared": shared}
    minibatch = next(iter(deal(batch, updates, averaging, generator=random, **options)))
    pieces = [rows for _, rows in minibatch.pieces(0, budget)]
    return [max(pieces, key=lambda rows: rows.response_ids.numel())] * min(2, len(pieces))


class LastToken(Generation):
    """A generation that reads its prefixes and then draws only the first and the last token of each response."""

    def rehearse(self, ids: Tensor, limits: Tensor, copies: int) -> int:
        """Draw, and return the bytes of the key-value cache."""
        logits = self._read_prefixes(ids, torch.ones_like(ids, dtype=torch.bool), limits, copies)
        tokens, steps = self._drawn(logits, 0), self.uniforms.shape[1]
        if steps > 1:
            self._fill(steps - 2)
            logits = self._next(tokens, steps - 2)
            self._drawn(logits, steps - 1)
        return _cache_bytes(self.cache)

    def _drawn(self, logits: Tensor, step: int) -> Tensor:
        return draw(logits, self.sampling, self.uniforms[self.rows, step], top=self.top).tokens

    def _fill(self, columns: int) -> None:
        """Let the cache hold what the tokens between the first and the last would have left in it."""
        layers: list[Any] = self.cache.layers
        for index, layer in enumerate(layers):
            if columns and layer.is_initialized:
                keys, values = (x[:, :, -1:].expand(-1, -1, columns, -1) for x in (layer.keys, layer.values))
                self.cache.update(keys, values, index)


def _cache_bytes(cache: ResponseCache) -> int:
    held: dict[int, int] = {}
    layers: list[Any] = cache.layers
    for layer in layers:
        for tensor in (
            layer.room if isinstance(layer, RoomyLayer) and layer.is_initialized else (layer.keys, layer.values)
        ):
            if isinstance(tensor, Tensor):
                held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(held.values())


def sample_responses(
    watch: MemoryWatch,
    policy: Policy,
    sampling: Sampling,
    *,
    prompts: int,
    copies: int,
    prompt_tokens: int,
    top: int,
) -> int:
    """Draw responses of full length to prompts of full length; return the bytes of the key-value cache."""
    ids = torch.zeros(prompts, prompt_tokens, dtype=torch.long)
    limits = torch.full((prompts,), sampling.max_response_tokens)
    uniforms = torch.zeros(1, 1, dtype=torch.float64).expand(prompts * copies, sampling.max_response_tokens)
    with evaluating(policy), watch.peak():
        generation = LastToken(policy, sampling, uniforms, top=top, look_every=2**31)
        cache = generation.rehearse(ids, limits, copies)
    del generation
    gc.collect()
    return cache


def read_only(watch: MemoryWatch, function: Callable[[], Any], context: AbstractContextManager[Any]) -> None:
    """Run a forward pass without gradient."""
    with torch.no_grad(), watch.peak(), context:
        function()


def backpropagate(
    watch: MemoryWatch,
    module: nn.Module,
    losses: Iterator[Callable[[], Tensor]],
    context: Callable[[], AbstractContextManager[Any]],
    *,
    keep: bool,
) -> None:
    """Accumulate the gradients of several passes.

    Args:
        watch: Counts.
        module: Whose gradients they are.
        losses: One pass each.
        context: Of every forward pass.
        keep: Whether gradients stay whole until the step; sharded ones leave as soon as they are there.
    """
    hooks = []
    if not keep:
        for parameter in module.parameters():
            if parameter.requires_grad:
                hooks.append(parameter.register_post_accumulate_grad_hook(_drop))
    with watch.peak():
        for loss in losses:
            with context():
                value = loss()
            value.backward()
    for hook in hooks:
        hook.remove()


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def step(watch: MemoryWatch, module: nn.Module, make: Callable[[Any], Optimizer], *, foreach: bool) -> tuple[int, int]:
    """Clip and step once with all states in place.

    Args:
        watch: Counts.
        module: What steps.
        make: From parameters to the optimizer.
        foreach: Whether many tensors are stepped by one kernel, as is usual on an accelerator.

    Returns:
        The bytes of the optimizer's states, and those that a step takes beside gradients and states.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = watch.fake(parameter.shape, parameter.dtype)
    optimizer, before = make(module.parameters()), watch.now
    for group in optimizer.param_groups:
        if foreach and group.get("foreach", 0) is None and not group.get("fused"):
            group["foreach"] = True
    with watch:
        optimizer.step()
    states = watch.now - before
    with watch.peak():
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    transient = watch.most - watch.now
    optimizer.zero_grad()
    return states, transient


def autocast(precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return the context of a forward pass under the Trainer's precision."""
    if precision != "bf16-mixed":
        return nullcontext
    return lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
