"""Tables of the AsyPPO study: what is finished, the claims with their verdicts, all arms, and what differs in each."""

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from statistics import fmean, median
from typing import Any

from bench.asyppo_claims import (
    AFTERWARDS,
    CLAIMS,
    END,
    MEMORY,
    MINUTES,
    PRIMARY,
    REACH,
    Claim,
    difference_of,
    verdict_of,
)
from bench.asyppo_results import Results, differences
from rl4llm.studies import Measure, paired_difference
from rl4llm.studies.tables import interval_text, markdown_table

BASELINE = "asyppo"
CLAIM_HEADS = ("claim", "compared", "difference", "seeds above, below", "time", "memory", "verdict")
ARM_HEADS = ("arm", "seeds", "over the run", "at the end", "batches to 0.8", "min", "MiB", "over the run, minus asyppo")


def coverage(results: Results) -> str:
    """Say how many runs the tables rest on, and name what is missing."""
    planned, done = results.planned, results.finished
    runs, all_runs = (sum(map(len, by_arm.values())) for by_arm in (done, planned))
    seeds = sorted(set().union(*planned.values()))
    complete = [arm for arm in planned if done[arm] == planned[arm]]
    text = (
        f"{runs} of {all_runs} runs have finished, and {len(complete)} of {len(planned)} arms have all of their seeds."
    )
    if runs == all_runs:
        return f"All {runs} runs have finished: {len(planned)} arms with {len(seeds)} seeds each."
    counts = {seed: sum(seed in own for own in done.values()) for seed in seeds}
    by_seed = [f"{count} arms with seed {seed}" for seed, count in counts.items() if count]
    return (
        f"**{text}** These are {', '.join(by_seed) or 'none'}.\n\nMissing: {'; '.join(_missing_seeds(planned, done))}."
    )


def _missing_seeds(planned: Mapping[str, set[int]], done: Mapping[str, set[int]]) -> Iterator[str]:
    """Yield which seeds are missing of which arms, arms that lack the same seeds together."""
    lacking: dict[tuple[int, ...], list[str]] = {}
    for arm, seeds in planned.items():
        lacking.setdefault(tuple(sorted(seeds - done[arm])), []).append(arm)
    for seeds, arms in lacking.items():
        if seeds:
            names = ", ".join(f"*{arm}*" for arm in arms)
            yield f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} of {names}"


def claims_table(results: Results) -> str:
    """Return one table per question: the claims, their differences, verdicts and costs."""
    parts = []
    for question, claims in CLAIMS.items():
        rows = [_claim_cells(claim, results) for claim in claims]
        parts += [f"### {question}", markdown_table(CLAIM_HEADS, rows)]
    return "\n\n".join(parts)


def _claim_cells(claim: Claim, results: Results) -> list[str]:
    values = results.values(claim.measure)
    common = set.intersection(*(set(values.get(arm, {})) for arm in claim.arms))
    found = difference_of(claim, values)
    verdict = verdict_of(claim, found, len(common))
    count = f" ({len(common)})" if verdict == "too few seeds" else ""
    unit = "" if claim.measure is PRIMARY else f" {_short(claim.measure)}"
    plus, minus = ([f"*{arm}*" for arm in side] for side in (claim.plus, claim.minus))
    compared = " − ".join([" + ".join(plus), *minus])
    counts = f"{found.above}, {found.below}" + (f"; p = {found.p:.2g}" if common else "")
    costs = [_ratio(claim, results.values(measure)) for measure in (MINUTES, MEMORY)]
    return [claim.text, compared, interval_text(found.mean, "+") + unit, counts, *costs, verdict + count]


def _short(measure: Measure) -> str:
    return {"run/minutes": "min", "run/peak_memory_mib": "MiB"}.get(measure.metric, measure.metric.rpartition("/")[2])


def _ratio(claim: Claim, values: Mapping[str, Mapping[int, float]]) -> str:
    """Return how many times as much the first arm takes as the second, at the median of their common seeds."""
    if len(claim.plus) > 1:
        return ""
    one, other = (values.get(arm, {}) for arm in claim.arms)
    seeds = set(one) & set(other)
    return f"× {median(one[s] for s in seeds) / median(other[s] for s in seeds):.2f}" if seeds else "–"


def afterwards_table(results: Results) -> str:
    """Return the differences of the pairs that were looked at after the verdicts."""
    values = results.values(PRIMARY)
    rows = []
    for plus, minus in AFTERWARDS:
        found = difference_of(Claim(f"{plus} − {minus}", (plus,), (minus,)), values)
        rows.append([f"*{plus}* − *{minus}*", interval_text(found.mean, "+"), f"{found.above}, {found.below}"])
    return markdown_table(("compared", "difference", "seeds above, below"), rows)


def arms_table(results: Results) -> str:
    """Return the table of all arms, with an arm that has no finished run as well."""
    measures = {PRIMARY: 3, END: 3, REACH: 1, MINUTES: 1, MEMORY: 0}  # with digits
    values = {measure: results.values(measure) for measure in measures}
    rows = []
    for arm, planned in results.planned.items():
        done = results.finished[arm]
        seeds = str(len(done)) if done == planned else f"{len(done)} of {len(planned)}"
        numbers = [_typical(measure, values[measure].get(arm, {}), digits) for measure, digits in measures.items()]
        rows.append([arm, seeds, *numbers, _to_baseline(arm, values[PRIMARY])])
    return markdown_table(ARM_HEADS, rows)


def _typical(measure: Measure, by_seed: Mapping[int, float], digits: int) -> str:
    """Return the mean over seeds, or the median of a cost; of a goal that some do not reach, how many reach it."""
    numbers = [number for number in by_seed.values() if not isnan(number)]
    if len(numbers) < len(by_seed):
        return f"{len(numbers)} of {len(by_seed)} reach it"
    average = median if measure in (MINUTES, MEMORY) else fmean
    return f"{average(numbers):.{digits}f}" if numbers else "–"


def _to_baseline(arm: str, values: Mapping[str, Mapping[int, float]]) -> str:
    own, baseline = values.get(arm, {}), values.get(BASELINE, {})
    common = sorted(set(own) & set(baseline))
    if arm == BASELINE or not common:
        return "" if arm == BASELINE else "–"
    found = paired_difference([own[s] for s in common], [baseline[s] for s in common])
    return f"{interval_text(found.mean, '+')}, {found.verdict}"


def settings_table(results: Results, arms: Sequence[str] | None = None) -> str:
    """Return what differs from the baseline in the resolved configuration of each arm.

    Settings that only one of two parts has are left out, because the class of the part says so already.
    """
    baseline = results.settings(BASELINE)
    rows = []
    for arm in arms or [arm for arm in results.planned if arm != BASELINE]:
        found = differences(baseline, results.settings(arm))
        shown = [
            f"`{name.removeprefix('model.')}`: {_change(*pair)}"
            for name, pair in found.items()
            if name.startswith("model.") and not _implied(name, found)
        ]
        rows.append([arm, "; ".join(shown)])
    return markdown_table(("arm", "its settings, where they differ"), rows)


def _implied(name: str, found: Mapping[str, tuple[Any, Any]]) -> bool:
    """Return whether a setting exists on one side only, because the class of its part does or does not have it."""
    before, after = found[name]
    classes = [pair[1] for other, pair in found.items() if name.startswith(f"{other}.")]
    return bool(classes) and (after is None or (before is None and classes[0] is not None))


def _change(before: Any, after: Any) -> str:
    return f"{_text(before)} → {_text(after)}"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
