"""Studies: arms of recipes over seeds, run side by side, compared seed by seed, and written as tables and data."""

from rl4llm.studies.arms import Arm, flags_of_study, study_arms
from rl4llm.studies.compare import Comparison, compared
from rl4llm.studies.extra import check_extra
from rl4llm.studies.figure import draw_arms
from rl4llm.studies.folders import Run, command_of
from rl4llm.studies.measures import Measure, curves
from rl4llm.studies.records import records, write_records
from rl4llm.studies.resolve import Resolved, resolve
from rl4llm.studies.running import Outcome, Pool, jobs_at_once
from rl4llm.studies.slurm import slurm_script
from rl4llm.studies.statistics import Difference, Interval, iqm_interval, mean_interval, paired_difference
from rl4llm.studies.study import Study, make_runs, write_report
from rl4llm.studies.tables import as_json, as_markdown

__all__ = [
    # what is run
    "Arm",
    "study_arms",
    "flags_of_study",
    "resolve",
    "Resolved",
    "Run",
    "command_of",
    "Study",
    # how
    "Pool",
    "Outcome",
    "jobs_at_once",
    "make_runs",
    "slurm_script",
    # what is compared
    "Measure",
    "curves",
    "mean_interval",
    "iqm_interval",
    "paired_difference",
    "Interval",
    "Difference",
    "compared",
    "Comparison",
    # what is written
    "records",
    "write_records",
    "as_markdown",
    "as_json",
    "draw_arms",
    "write_report",
    "check_extra",
]
