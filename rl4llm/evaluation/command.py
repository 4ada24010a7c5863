"""`recipes/evaluate.py` around the evaluation itself: tasks and sampling, the output folder, and the files."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from rl4llm.algorithms.sample_tables import choose
from rl4llm.algorithms.sample_text import as_text as samples_text
from rl4llm.checks import UsageError
from rl4llm.cli_errors import PARSER_SAYS, import_fault, one_line
from rl4llm.cli_parser import RecipeParser
from rl4llm.cli_process import prepare_process
from rl4llm.data import AbsoluteDifference, Task
from rl4llm.evaluation.generations import Format, write_generations
from rl4llm.evaluation.report import AVERAGE, as_json, as_markdown, as_text, numbers
from rl4llm.evaluation.run import Evaluated
from rl4llm.evaluation.source import Source
from rl4llm.progress import fitted, progress
from rl4llm.rollouts import Sampling
from rl4llm.runs.atomic import write_atomically
from rl4llm.runs.ending import explain
from rl4llm.runs.folder import check_writable, claim_folder


def run_tool(tool: Callable[..., None], args: list[str] | None = None) -> None:
    """Run a function as a command; an expected error is one line and exit status 2.

    Args:
        tool: The function, whose parameters are the flags.
        args: Command-line arguments; those of the process when None.
    """
    progress.speak(tool.__name__)
    prepare_process()
    try:
        auto_cli(tool, args=args, as_positional=False, parser_class=RecipeParser)
    except Exception as error:
        fault = import_fault(error)
        said = fault or (one_line(str(error), []) if PARSER_SAYS in str(error) else None)
        known = (f"error: {said}", 2) if said else explain(error)
        if known is None:
            raise
        print(fitted(known[0], sys.stderr), file=sys.stderr)
        sys.exit(known[1])
    finally:
        progress.hush()


def chosen_tasks(source: Source, task: Task | None, tasks: Mapping[str, Task] | None) -> dict[str, Task]:
    """Return the tasks that were given; without any that of the run, or the embedded one for an embedded model.

    Args:
        source: What is evaluated.
        task: One task, which is named by its class.
        tasks: Several tasks by name.

    Raises:
        UsageError: If both are given, there is none to fall back on, or a name is taken.
    """
    if tasks is not None and task is not None:
        raise UsageError("evaluate: both --task and --tasks are given; name all tasks in --tasks.")
    if tasks is not None:
        if AVERAGE in tasks:
            raise UsageError(f"evaluate: a task is named '{AVERAGE}', which is the name of a row; choose another.")
        return dict(tasks)
    own = task or source.choice(Task, "data", "task") or (AbsoluteDifference() if source.embedded else None)
    if own is None:
        raise UsageError(
            "evaluate: this model comes with no task; give one, for example --task=JsonLines --task.train=train.jsonl "
            "--task.test=test.jsonl --task.reward=my_rewards.exact_answer."
        )
    return {type(own).__name__: own}


def chosen_sampling(source: Source, **given: Any) -> Sampling:
    """Return how responses are drawn: as the run's evaluations drew them, except for what was given.

    Args:
        source: What is evaluated.
        given: Settings of `Sampling`; None leaves one as it is.

    Raises:
        UsageError: If nothing says how long a response may be.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    own = source.sampling()
    if own is None and "max_response_tokens" not in changes and not source.embedded:
        raise UsageError(
            "evaluate: nothing says how long a response may be; give --max_response_tokens, for example 1024."
        )
    return replace(own or Sampling(), **changes)


def output_folder(out: str | None) -> Path:
    """Return where the files go, a folder that can be written: `out`, or the next `runs/evaluate/version_<n>`."""
    if out is None:
        return claim_folder(Path("runs"), "evaluate")
    check_writable(Path(out))
    return Path(out)


def publish(
    folder: Path, found: Mapping[str, Evaluated], about: Mapping[str, Any], *, form: Format, shown: int
) -> None:
    """Write `evaluation.json`, `evaluation.md` and the generations, and print the numbers and a few responses.

    Args:
        folder: Where the files go.
        found: What each task gave.
        about: What was evaluated and how.
        form: Format of the generations.
        shown: Responses of each task that are printed.
    """
    with progress.phase("computing the intervals", quick=True):
        measured = numbers({name: own.measures for name, own in found.items()})
    generations = write_generations(folder, {name: own.samples for name, own in found.items()}, form)
    versions = {name: version(name) for name in ("torch", "lightning", "transformers")}
    told = {**about, "generations": generations.name, "versions": versions}
    write_atomically(folder / "evaluation.json", as_json(measured, told).encode())
    said = [f"{key}: {value}" for key, value in about.items() if not isinstance(value, Mapping)]
    write_atomically(
        folder / "evaluation.md", as_markdown(measured, [f"# {about['model']}", "", *_list(said)]).encode()
    )
    for name, own in found.items():
        chosen = choose([sample.score for sample in own.samples], shown, step=0)
        table = {kind: own.samples[row] for kind, row in chosen.items()}
        if table:
            print(samples_text(f"samples of {name}", table, encoding=sys.stdout.encoding or "utf-8"))
    print(as_text(measured))
    print(f"\nnumbers      {folder / 'evaluation.json'}\ntable        {folder / 'evaluation.md'}")
    print(f"responses    {generations}")


def _list(lines: list[str]) -> list[str]:
    return [f"- {line}" for line in lines]
