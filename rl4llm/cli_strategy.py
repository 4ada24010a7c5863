"""Short names for `--trainer.strategy`, and the strategies and precisions that the loop does not support."""

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy

from rl4llm.checks import UsageError
from rl4llm.strategies import ShardedStrategy

NAMES = ("auto", "ddp", "fsdp2")
_DDP = ("ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
_WHY = {
    "fsdp": "shards by FSDP1; use --trainer.strategy=fsdp2, which shards layer by layer",
    "deepspeed": "runs its own optimizer step; use --trainer.strategy=fsdp2 to shard, or ddp",
}


def resolve_strategy(given: str | Strategy) -> str | Strategy:
    """Return what the Trainer takes for the strategy that the configuration names.

    Args:
        given: A short name, or a strategy of the user's own.

    Raises:
        UsageError: The loop does not run under this strategy; says which one to use.
    """
    if isinstance(given, FSDPStrategy | DeepSpeedStrategy):
        raise _unsupported(type(given).__name__, "fsdp" if isinstance(given, FSDPStrategy) else "deepspeed")
    if isinstance(given, Strategy) or given in (*NAMES, *_DDP):
        return ShardedStrategy() if given == "fsdp2" else given
    family = next((name for name in _WHY if given.startswith(name)), "")
    raise _unsupported(given, family)


def check_precision(given: str | int | None) -> None:
    """Raise for float16, which the loop does not run in.

    Raises:
        UsageError: Says why, and what to use instead.
    """
    why = {
        "16-mixed": "scales the loss, which clip-norms would see; use bf16-mixed",
        "16-true": "holds the weights in float16, where Adam divides by zero; use bf16-true",
    }
    name = {"16": "16-mixed"}.get(str(given), str(given))
    if name in why:
        raise UsageError(f"--trainer.precision: {given} {why[name]}.")


def _unsupported(name: str, family: str) -> UsageError:
    why = _WHY.get(family, "is not supported; use auto or ddp for whole models on each device, fsdp2 for sharded ones")
    return UsageError(f"--trainer.strategy: {name} {why}.")
