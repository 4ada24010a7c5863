"""Gathering: the rows that the ranks collected become one rollout batch, the same on every rank."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from rl4llm.algorithms.collect import Collected
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch


def gather(runtime: Runtime, collecting: Callable[[], Collected]) -> Collected:
    """Collect on every rank, and give each of them the rows of all, in the order of the global batch.

    A rollout batch holds a few numbers per token and never logits, so it is small; gathered, every statistic of it is
    that of the whole batch, computed by each rank alike.

    Args:
        runtime: Ranks.
        collecting: Collects this rank's rows. If it fails on one rank, it fails on all.
    """
    if runtime.world_size == 1:
        return collecting()

    def moved() -> Collected:
        own = collecting()
        return replace(own, batch=own.batch.to("cpu"))

    pieces, problems, lost = runtime.together(moved), Counter[str](), dict[str, str]()
    for piece in pieces:
        problems.update(piece.problems)
        lost = {**piece.lost, **lost}
    filled = [piece.batch for piece in pieces if len(piece.batch)] or [pieces[0].batch]
    return Collected(RolloutBatch.cat(filled).to(runtime.device), dict(problems), lost)
