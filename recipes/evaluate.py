"""Evaluates a checkpoint, a run folder, a model folder or a hub model: mean@k, pass@k and maj@k with intervals."""

import rl4llm.start

from dataclasses import asdict

from rl4llm.data import Task
from rl4llm.evaluation import (
    Format,
    HeldOut,
    check_tasks,
    chosen_format,
    chosen_ks,
    chosen_sampling,
    chosen_tasks,
    evaluate_policy,
    find_source,
    output_folder,
    publish,
    run_tool,
)
from rl4llm.models import Pretrained
from rl4llm.rewards import Scoring
from rl4llm.rollouts import EngineSpec, HuggingFaceRollout


def evaluate(
    model: str | Pretrained,
    task: Task | None = None,
    tasks: dict[str, Task] | None = None,
    split: HeldOut = "test",
    samples: int = 8,
    k: list[int] | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    max_response_tokens: int | None = None,
    seed: int = 0,
    engine: EngineSpec = HuggingFaceRollout(),
    scoring: Scoring = Scoring(),
    prompts_at_once: int = 64,
    generations: Format = "auto",
    shown: int = 3,
    out: str | None = None,
) -> None:
    """Evaluate a policy on held-out prompts.

    Args:
        model: A checkpoint of a run, a run folder, a model folder, a hub name or an embedded model.
        task: Prompts and their verifier; null: those of the run.
        tasks: Several tasks by name, for example `--tasks.digits=AbsoluteDifference`.
        split: Which prompts.
        samples: n, sampled responses per prompt.
        k: Numbers of responses for pass@k and maj@k, at most n; null: 2, 4, 8, ... and n.
        temperature: Temperature of the sampled responses; null: that of the run's evaluations, or 1.
        top_k: Keep only the k likeliest tokens; null: as the run's evaluations.
        top_p: Keep the likeliest tokens with this mass; null: as the run's evaluations.
        max_response_tokens: Length limit; null: that of the run's evaluations.
        seed: Seed of the responses; the same seed gives the same responses.
        engine: What draws the responses.
        scoring: How the reward is run.
        prompts_at_once: Prompts answered together; no response depends on it.
        generations: File format of the responses; auto: Parquet if pyarrow is installed, else JSON lines.
        shown: Responses of each task that are printed.
        out: Folder of the files; null: the next `runs/evaluate/version_<n>`.
    """
    source = find_source(model)
    chosen, ks, form = chosen_tasks(source, task, tasks), chosen_ks(samples, k), chosen_format(generations)
    limits = {"top_k": top_k, "top_p": top_p, "max_response_tokens": max_response_tokens}
    sampling = chosen_sampling(source, temperature=temperature, **limits)
    check_tasks(chosen, split, prompts_at_once=prompts_at_once)
    source.check()
    drawn = {"split": split, "samples": samples, "seed": seed, "sampling": sampling}
    options = {"ks": ks, "engine": engine, "scoring": scoring, "prompts_at_once": prompts_at_once}
    folder = output_folder(out)
    found = evaluate_policy(source.load(), chosen, **drawn, **options)
    about = {"model": source.name, **drawn, "k": ks, "sampling": asdict(sampling)}
    publish(folder, found, about, form=form, shown=shown)


if __name__ == "__main__":
    run_tool(evaluate)
