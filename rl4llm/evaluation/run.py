"""Evaluating a policy on tasks, by the Trainer's own `validate` and `test` loops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning import Trainer

from rl4llm.algorithms.evaluation import Evaluation, all_measures
from rl4llm.algorithms.held_out import Sample
from rl4llm.algorithms.policy_module import PolicyModule
from rl4llm.checks import UsageError, check_at_least, check_choice
from rl4llm.data import PromptData, Task
from rl4llm.data.checking import check_reward, checked_examples
from rl4llm.metrics import Measure
from rl4llm.models import Policy
from rl4llm.progress import progress
from rl4llm.rewards import Scoring
from rl4llm.rollouts import EngineSpec, HuggingFaceRollout, Sampling
from rl4llm.runs.step_bar import StepBar

HeldOut = Literal["validation", "test"]
_QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "devices": 1}


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation on one task gave.

    Args:
        samples: The sampled responses, those of one prompt together.
        measures: What is measured on them and on the greedy responses, by name.
    """

    samples: Sequence[Sample]
    measures: Mapping[str, Measure]


def check_tasks(tasks: Mapping[str, Task], split: HeldOut, *, prompts_at_once: int) -> None:
    """Raise, before a model is loaded, unless every task has a reward that can be called and examples of the split.

    Args:
        tasks: Tasks by name.
        split: Which of their prompts.
        prompts_at_once: Prompts answered together.

    Raises:
        UsageError: Naming the task.
    """
    check_at_least("evaluate", 1, prompts_at_once=prompts_at_once)
    check_choice("evaluate", ("validation", "test"), split=split)
    if not tasks:
        raise UsageError("evaluate: tasks is empty; name at least one, or give --task.")
    for name, task in tasks.items():
        with progress.phase(f"reading the task {name}"):
            task.prepare([split])
            check_reward(task)
            prompts = checked_examples(task, split)
        if not len(prompts):
            raise UsageError(f"evaluate: task '{name}' has no {split} prompts; bring some, or choose another --split.")


def chosen_ks(samples: int, ks: Sequence[int] | None) -> list[int]:
    """Return the numbers of responses for pass@k and maj@k; by default powers of two from 2 on, and `samples`.

    Raises:
        UsageError: If one is below 1 or above `samples`.

    Example:
        >>> chosen_ks(6, None), chosen_ks(6, [3, 1])
        ([2, 4, 6], [1, 3])
    """
    check_at_least("evaluate", 1, samples=samples)
    if ks is None:
        return sorted({2**i for i in range(1, samples.bit_length()) if 2**i < samples} | {samples})
    for k in ks:
        check_at_least("evaluate", 1, k=k)
        if k > samples:
            raise UsageError(f"evaluate: k={k} needs {k} responses per prompt; raise --samples, which is {samples}.")
    return sorted(set(ks))


def evaluate_policy(
    policy: Policy,
    tasks: Mapping[str, Task],
    *,
    split: HeldOut = "test",
    samples: int = 8,
    ks: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    engine: EngineSpec = HuggingFaceRollout(),
    scoring: Scoring = Scoring(),
    prompts_at_once: int = 64,
    **trainer: object,
) -> dict[str, Evaluated]:
    """Evaluate a policy on every task, one greedy response and several sampled ones per prompt.

    Args:
        policy: The policy.
        tasks: Tasks by name.
        split: Which of their prompts.
        samples: Sampled responses per prompt.
        ks: Numbers of responses for pass@k and maj@k; None: see [chosen_ks][rl4llm.evaluation.run.chosen_ks].
        sampling: How they are drawn.
        seed: Seed of the responses, as that of an `Evaluation`.
        engine: What draws the responses.
        scoring: How the rewards are run.
        prompts_at_once: Prompts answered together; no response depends on it.
        trainer: Settings of the Trainer that differ from one device without loggers.

    Returns:
        What each task gave. The mean over the samples, which `validate` logs as `sampled_accuracy`, is called
        `mean_at_<samples>`.
    """
    check_tasks(tasks, split, prompts_at_once=prompts_at_once)
    numbers = chosen_ks(samples, ks)
    evaluation = Evaluation(samples, sampling.temperature, sampling.top_k, sampling.top_p, seed=seed, samples_shown=0)
    module = PolicyModule(policy, engine, scoring, sampling, evaluation)
    bar = [StepBar()] if trainer.get("enable_progress_bar", True) else []
    runner = Trainer(**{**_QUIET, "callbacks": bar, **trainer})  # type: ignore[arg-type]
    run, found = runner.validate if split == "validation" else runner.test, {}
    for name, task in tasks.items():
        run(module, datamodule=PromptData(task, held_out_per_step=prompts_at_once), verbose=False)
        drawn = module.evaluator.samples
        measured = all_measures(module.evaluator.greedy_samples, drawn, ks=numbers)
        renamed = {f"mean_at_{samples}" if key == "sampled_accuracy" else key: x for key, x in measured.items()}
        found[name] = Evaluated(drawn, renamed)
    return found
