"""From the Trainer and its strategy to a `Runtime`, and from whole models to sharded ones."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from rl4llm.algorithms.runtime import Runtime
from rl4llm.checks import UsageError
from rl4llm.models import decoder_layers

_BUCKET = 32 * 1024 * 1024  # numbers that are summed over ranks at once


def runtime_of(module: LightningModule, *, seed: int, step: int) -> Runtime:
    """Return the runtime of a module that a Trainer holds, or of one process where none does."""
    trainer = module._trainer
    if trainer is None:
        return Runtime(seed, step)
    strategy: Any = trainer.strategy
    sharded, many = isinstance(strategy, ModelParallelStrategy), trainer.world_size > 1

    def backward(loss: Tensor) -> None:
        with strategy.block_backward_sync() if many and not sharded else nullcontext():
            module.manual_backward(loss * trainer.world_size if sharded else loss)

    def step_optimizer(optimizer: Any, counted: bool) -> None:
        if counted:
            optimizer.step()
        else:
            strategy.optimizer_step(optimizer.optimizer, lambda: None)

    return Runtime(
        seed=seed,
        step=step,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        device=module.device,
        lockstep=sharded and many,
        gather=_gather(trainer.world_size),
        backward=backward,
        add_gradients=_add_gradients if many and not sharded else lambda module: None,
        step_optimizer=step_optimizer,
        whole_weights=whole_weights if sharded else lambda module: nullcontext(),
    )


def check_strategy(strategy: Any) -> None:
    """Raise one line for a strategy that the loop does not support."""
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy):
        raise UsageError(
            f"strategy {type(strategy).__name__} is not supported; set --trainer.strategy=ddp for models that fit on "
            "one device, or --trainer.strategy=fsdp2 to shard them."
        )


def _gather(world_size: int) -> Callable[[Any], list[Any]]:
    def gather(own: Any) -> list[Any]:
        if world_size == 1:
            return [own]
        found: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(found, own)
        return found

    return gather


@torch.no_grad()
def _add_gradients(module: nn.Module) -> None:
    """Sum the gradients of a replicated module over the ranks.

    A parameter that got no gradient on any rank has none afterwards either, as in one process.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=parameters[0].device)
    torch.distributed.all_reduce(present)
    for parameter, count in zip(parameters, present.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p, count in zip(parameters, present.tolist(), strict=True) if count]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        torch.distributed.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(gradients: list[Any]) -> Iterator[list[Tensor]]:
    """Group gradients of one dtype, so many that a bucket is large enough to be worth a call."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) + gradient.numel() > _BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def shard(model: nn.Module, heads: list[nn.Module], mesh: DeviceMesh, precision: str) -> None:
    """Shard a Hugging Face model layer by layer over a mesh, and its heads beside it, in place.

    Args:
        model: The backbone or causal language model.
        heads: Modules that are called outside the model's own forward pass.
        mesh: One-dimensional mesh of the ranks that share the weights.
        precision: The Trainer's precision; `bf16-mixed` gathers weights in bfloat16 and reduces in float32.
    """
    warnings.filterwarnings("ignore", ".*FSDP2-wrapped module .* returned a view tensor.*")  # nothing is done in place
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16-mixed" else None
    options: dict[str, Any] = {"mesh": mesh, **({} if policy is None else {"mp_policy": policy})}
    for layer in decoder_layers(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    for head in heads:
        fully_shard(head, mesh=mesh)  # heads compute in float32 whatever the precision


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Make new tensors float32 where nothing else is said, as they are outside of a Trainer.

    Lightning's `bf16-true` makes bfloat16 the default while a step runs. The weights say what a model computes in; the
    log-probs, scores and sums that are made beside it would lose most of their digits.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Hold a sharded module's weights whole, for forward passes without gradient that each rank runs by itself."""
    sharded = [m for m in module.modules() if isinstance(m, FSDPModule)]
    with torch.inference_mode(False), torch.no_grad():
        for part in sharded:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in sharded:
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()
