"""`dry_run`: what the flag of that name does, from the configuration of a run to the printed plan."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy

from rl4llm.algorithms.policy_gradient import PolicyGradient
from rl4llm.checks import UsageError
from rl4llm.cli_strategy import check_precision, resolve_strategy
from rl4llm.data.checking import checked_examples
from rl4llm.models.outline import without_weights
from rl4llm.planning.plan import plan
from rl4llm.planning.report import report
from rl4llm.planning.setting import Setting, bytes_of, device_memory, devices_of, process_bytes

_MEASURED = 64  # prompts whose tokens are counted: those with most characters


def dry_run(parser: Any, config: Any, command: str, recipe: str) -> str:
    """Return the plan of the memory of a run; no weight is read, and no device is touched.

    Args:
        parser: Parses and instantiates the configuration.
        config: Of the whole command.
        command: Must be fit.
        recipe: Name of the recipe.

    Raises:
        UsageError: If the command does not train, or something in the configuration is wrong.
    """
    if command != "fit":
        raise UsageError(f"--dry_run plans the training of a run, and {command} does not train; run fit --dry_run.")
    given = config[command]
    memory = given.get("dry_run_memory")
    stated = None if memory is None else bytes_of(memory)
    strategy = resolve_strategy(
        given.get("trainer.strategy") if isinstance(given.get("trainer.strategy"), str) else "auto"
    )
    check_precision(given.get("trainer.precision"))
    libraries = process_bytes()
    with without_weights():
        made = parser.instantiate(config)[command]
    if not isinstance(made.get("trainer.strategy"), str):
        strategy = resolve_strategy(made.get("trainer.strategy"))
    if not isinstance(made.model, PolicyGradient):
        raise UsageError(f"--dry_run plans recipes of policy gradients, and {recipe} is none; leave it out.")
    on_cpu, world_size = devices_of(made.trainer)
    own = device_memory(on_cpu, world_size) if stated is None else stated
    setting = Setting(
        world_size,
        isinstance(strategy, ModelParallelStrategy),
        _precision(made.trainer.get("precision")),
        on_cpu,
        *_sizes(made.data, made.model, made.trainer),
        memory=own,
        libraries=libraries if on_cpu else 0,
    )
    return report(plan(made.model, setting), recipe)


def _precision(given: Any) -> str:
    return {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed"}.get(str(given), str(given))


def _sizes(data: Any, module: PolicyGradient, trainer: Any) -> tuple[int, int, int]:
    """Prompts of a rollout batch, of a batch of an evaluation, and tokens of the longest prompt."""
    held_out = [] if trainer.get("limit_val_batches") == 0 else checked_examples(data.task, "validation")
    training = checked_examples(data.task, "train")
    longest = max(_longest(examples, module) for examples in (training, held_out) if len(examples))
    if module.prompt_limit is not None:
        longest = min(longest, module.prompt_limit)
    module.check_context(longest)
    return data.prompts_per_step, min(data.held_out_per_step, len(held_out)), longest


def _longest(examples: Sequence[Any], module: PolicyGradient) -> int:
    """Tokens of the longest prompt; of prompts that are made on the fly, of the first."""
    prompts = [example.prompt for example in (examples if isinstance(examples, list | tuple) else [examples[0]])]
    long = sorted(prompts, key=lambda prompt: len(str(prompt)))[-_MEASURED:]
    return max(module.prompt_length(prompt) for prompt in long)
