"""`Study`: from the arms of a study to its tables, its figure and its data."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from rl4llm.checks import UsageError, check_at_least
from rl4llm.progress import progress
from rl4llm.runs.atomic import write_atomically
from rl4llm.runs.folder import check_writable
from rl4llm.studies.arms import Arm
from rl4llm.studies.compare import compared
from rl4llm.studies.figure import draw_arms
from rl4llm.studies.folders import Run
from rl4llm.studies.measures import Measure, curves
from rl4llm.studies.records import records, write_records
from rl4llm.studies.resolve import resolve
from rl4llm.studies.running import Outcome, Pool, jobs_at_once, visible_devices
from rl4llm.studies.statistics import FEWEST
from rl4llm.studies.tables import as_json, as_markdown


@dataclass(frozen=True)
class Study:
    """What is run and what is compared.

    Args:
        arms: The arms.
        seeds: One run per arm and seed.
        baseline: Name of the arm with which the others are compared; None for the first one.
        measures: What is compared; the figure shows the metric of the first one.
        out: Folder of the runs and of what is written about them.
        threads: Threads of each run.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None
    measures: tuple[Measure, ...] = (Measure("val/sampled_accuracy"),)
    out: Path = Path("runs/report")
    threads: int = 1

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        check_at_least("report", 1, threads=self.threads)
        if not self.arms or not self.measures:
            raise UsageError("report: there are no arms or no measures; give at least one of each.")
        if self.baseline is not None and self.baseline not in names:
            raise UsageError(f"report: --baseline={self.baseline} is no arm; the arms are {', '.join(names)}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                f"report: --seeds={list(self.seeds)}; give how many, at least 1, or a list of different whole numbers "
                "of at least 0."
            )

    @property
    def compared_with(self) -> str:
        """The name of the baseline."""
        return self.baseline or self.arms[0].name

    def runs(self) -> list[Run]:
        """Resolve all arms and return their runs: first those of the first seed, so that early results are paired.

        Raises:
            UsageError: If a recipe refuses an arm.
        """
        found = resolve(self.arms)
        return [Run(arm, seed, self.threads, self.out.absolute()) for seed in self.seeds for arm in found]

    def only(self, number: int) -> "Study":
        """Return the study that consists of one run of this one.

        Args:
            number: Which one, from 0 in the order of `runs`.

        Raises:
            UsageError: If there is no run of this number.
        """
        count = len(self.seeds) * len(self.arms)
        if not 0 <= number < count:
            raise UsageError(f"report: --only={number}, but the runs are numbered from 0 to {count - 1}.")
        seed, arm = divmod(number, len(self.arms))
        return replace(self, seeds=(self.seeds[seed],), arms=(self.arms[arm],), baseline=None)


def make_runs(study: Study, runs: Sequence[Run], jobs: int | None) -> int:
    """Make the runs that have not finished, and say on standard error how each ends.

    Args:
        study: The study.
        runs: Its runs.
        jobs: Runs side by side; None for one per GPU or core.

    Returns:
        The exit status: 0 if every run has finished, otherwise 1.
    """
    check_writable(study.out)
    if len(study.seeds) < FEWEST and len(study.arms) > 1:
        few = "one seed gives no intervals" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds give no verdicts"
        _say(f"warning: {few}; take --seeds={FEWEST} or more.")
    todo = [run for run in runs if not run.finished]
    old = [run for run in runs if run.outdated and run not in todo]
    if old:
        _say(
            f"warning: the source code has changed since {len(old)} of these runs were made, the first of them in "
            f"{old[0].place}; remove their folders to make them again."
        )
    one_device = all(run.resolved.one_device for run in runs)
    side_by_side = min(jobs_at_once(jobs, study.threads, one_device=one_device), max(1, len(todo)))
    before = len(runs) - len(todo)
    _say(f"report: {len(runs)} runs in {study.out}, {before} of them finished; {side_by_side} at once.")
    pool, unfinished = Pool(side_by_side, visible_devices() if one_device else []), 0
    progress.announce("training", len(todo), "runs", seldom=60.0)
    for number, outcome in enumerate(pool.outcomes(todo), start=before + 1):
        unfinished += outcome.state != "finished"
        progress.advance()
        _say(f"[{number}/{len(runs)}] {outcome.run.label}: {outcome.state}{_told(outcome)}")
    progress.end()
    if unfinished:
        _say(f"report: {unfinished} of {len(runs)} runs have not finished; the same command goes on with them.")
    return int(unfinished > 0)


def write_report(study: Study, runs: Sequence[Run], title: str) -> str:
    """Write `metrics.parquet`, `report.md`, `report.json` and `curves.png`, and return the tables.

    Args:
        study: The study.
        runs: All of its runs.
        title: The heading of the tables.
    """
    table = records(runs)
    write_records(table, study.out / "metrics.parquet")
    found = compared(runs, table, study.measures, study.compared_with)
    text = as_markdown(found, title)
    write_atomically(study.out / "report.md", text.encode())
    about = {"title": title, "seeds": study.seeds, "measures": [asdict(one) for one in study.measures]}
    write_atomically(study.out / "report.json", as_json(found, {**about, "versions": _versions()}).encode())
    metric = study.measures[0].metric
    done = {(run.resolved.arm.name, run.seed) for run in runs if run.finished}
    shown = {
        name: {seed: curve for seed, curve in by_seed.items() if (name, seed) in done}
        for name, by_seed in curves(table, metric).items()
    }
    ordered = {arm.name: shown[arm.name] for arm in study.arms if shown.get(arm.name)}
    if ordered:
        draw_arms(ordered, study.compared_with, study.out / "curves.png", metric=metric)
    return text


def _versions() -> Mapping[str, str]:
    return {name: version(name) for name in ("torch", "lightning", "transformers", "scipy")}


def _told(outcome: Outcome) -> str:
    if outcome.state == "failed":
        return f": {outcome.reason}"
    if outcome.state == "running":
        return " in another process"
    minutes = outcome.run.summary.get("minutes")
    return f" after {minutes:.1f} minutes of training" if minutes is not None else ""


def _say(text: str) -> None:
    progress.wipe()
    print(text, file=sys.stderr, flush=True)
