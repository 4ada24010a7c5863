"""A study as a SLURM array: one task per run."""

import shlex
import sys
from collections.abc import Sequence

_SCRIPT = """\
#!/bin/bash
# Submit from the folder in which the study was started: sbatch study.sh
# Give partition, memory and GPUs here or to sbatch, for example --gres=gpu:1.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{limit}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={threads}
# When the array has ended, the same command without --only writes the tables:
# {command}
{command} --jobs=1 --only="$SLURM_ARRAY_TASK_ID"
"""


def slurm_script(arguments: Sequence[str], *, count: int, jobs: int | None, threads: int) -> str:
    """Return a script for `sbatch` that makes every run of a study in a task of its own.

    Args:
        arguments: Those of the report, script first.
        count: Number of runs.
        jobs: Most tasks at once; None for no limit.
        threads: Threads of each run.

    Example:
        >>> print(slurm_script(["report.py", "--seeds=3", "--slurm"], count=6, jobs=2, threads=1))
        #!/bin/bash
        ...
        #SBATCH --array=0-5%2
        ...
    """
    script, *flags = arguments
    kept = [flag for flag in flags if flag.partition("=")[0] not in ("--slurm", "--jobs")]
    return _SCRIPT.format(
        name="rl4llm-report",
        last=count - 1,
        limit="" if jobs is None else f"%{jobs}",
        threads=threads,
        command=shlex.join([sys.executable, script, *kept]),
    )
