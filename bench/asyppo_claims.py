"""The claims of the AsyPPO paper as comparisons of arms, and the rule that decides each of them.

Both were written before any arm of the study had two seeds. A claim is decided by one measure, the mean of the
held-out accuracy over the run, unless it is about something else: in the study's setting methods differ in how fast
they learn. The claim that AsyPPO takes less time than PPO is left to `asyppo_cost`, because the minutes of a run
depend on what else the machine does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rl4llm.checks import UsageError
from rl4llm.studies import Difference, Measure, paired_difference
from rl4llm.studies.statistics import FEWEST

ACCURACY = "val/sampled_accuracy"
PRIMARY = Measure(ACCURACY, "mean")
END, REACH = Measure(ACCURACY), Measure(ACCURACY, "reach", 0.8)
MINUTES, MEMORY = Measure("run/minutes"), Measure("run/peak_memory_mib")
SPREAD, ENTROPY = Measure("critics/spread", "mean"), Measure("policy/entropy", "mean")
MARGIN = 0.02  # a third of the six points of accuracy that the paper reports for its gate
Verdict = Literal["supported", "not supported", "not distinguishable", "too few seeds", "not comparable"]


@dataclass(frozen=True)
class Claim:
    """A statement about arms: the sum of some is higher or lower than the sum of others, or about the same.

    Args:
        text: The statement.
        plus: The arms that are added; one, or two for a difference between differences.
        minus: The arms that are subtracted, as many.
        expected: How the difference comes out if the statement holds.
        measure: The number of each run that is compared.
    """

    text: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    expected: Literal["higher", "lower", "similar"] = "higher"
    measure: Measure = PRIMARY

    def __post_init__(self) -> None:
        if not self.plus or len(self.plus) != len(self.minus):
            raise UsageError(f"Claim: {self.plus} against {self.minus}; give as many arms on both sides.")
        if self.expected == "similar" and self.measure is not PRIMARY:
            raise UsageError(
                f"Claim: '{self.text}' is similar in {self.measure.title}; the margin is one of {ACCURACY}."
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that are compared."""
        return self.plus + self.minus


def difference_of(claim: Claim, values: Mapping[str, Mapping[int, float]]) -> Difference:
    """Compare the two sides of a claim over the seeds that all of its arms have finished.

    Args:
        claim: The claim.
        values: The claim's measure by arm and seed; arms without a finished run may be absent.
    """
    seeds = sorted(set.intersection(*(set(values.get(arm, {})) for arm in claim.arms)))
    sides = [[sum(values[arm][seed] for arm in side) for seed in seeds] for side in (claim.plus, claim.minus)]
    return paired_difference(*sides)


def verdict_of(claim: Claim, found: Difference, seeds: int) -> Verdict:
    """Decide a claim.

    With fewer than six seeds nothing is decided. A claim of a difference is `supported` where the 95 % interval
    leaves out 0 on the claimed side and the sign test rejects at 5 %, and `not supported` where both hold on the
    other side. A claim of similarity is `supported` where the whole interval lies within the margin, and `not
    supported` where it lies outside of it. Everything else is `not distinguishable`.

    Args:
        claim: The claim.
        found: Its difference.
        seeds: Number of seeds that the difference rests on.
    """
    if seeds < FEWEST:
        return "too few seeds"
    if found.verdict == "not comparable":
        return "not comparable"
    low, high = found.mean.low, found.mean.high
    if claim.expected == "similar":
        if low > -MARGIN and high < MARGIN:
            return "supported"
        return "not supported" if low >= MARGIN or high <= -MARGIN else "not distinguishable"
    if found.verdict not in ("higher", "lower"):
        return "not distinguishable"
    return "supported" if found.verdict == claim.expected else "not supported"


def _over(text: str, arm: str, other: str, measure: Measure = PRIMARY) -> Claim:
    return Claim(text, (arm,), (other,), "higher", measure)


def _below(text: str, arm: str, other: str, measure: Measure) -> Claim:
    return Claim(text, (arm,), (other,), "lower", measure)


def _like(text: str, arm: str, other: str) -> Claim:
    return Claim(text, (arm,), (other,), "similar")


def _grows(text: str, other: str) -> Claim:
    return Claim(text, ("eight passes", f"{other}, one pass"), (f"{other}, eight passes", "one pass"))


ENSEMBLE, LARGE = "neither gate nor filter", "one critic with the parameters of two"
HALF = f"one critic with half the data, {ENSEMBLE}"

CLAIMS: Mapping[str, tuple[Claim, ...]] = {
    "Methods": (
        _over("AsyPPO learns better than PPO with a critic as large as the policy", "asyppo", "ppo"),
        _over("Small critics are better than one as large as the policy, all else equal", "asyppo", "symmetric critic"),
        _over("AsyPPO learns better than GRPO", "asyppo", "grpo"),
        _over("Small critics guide the policy: their values are better than their mean", "asyppo", "no values"),
        _below("AsyPPO takes less memory than PPO", "asyppo", "ppo", MEMORY),
    ),
    "The ensemble": (
        _over("Two critics are better than one", ENSEMBLE, "one critic"),
        _over("Two critics are better than one with the parameters of both", ENSEMBLE, LARGE),
        _over("The mean of two critics is better than one of them", ENSEMBLE, HALF),
        _over("A larger critic is better", "symmetric critic", "one critic"),
        _like("More than two critics add little", "four critics", "asyppo"),
        _over("Disjoint responses are better than shared data", "asyppo", "shared data"),
        _over("Responses of every prompt are better than whole prompts", "asyppo", "prompt shards"),
        _over("Responses of every prompt are better than random ones", "asyppo", "random shards"),
        _over("Disjoint responses make the critics differ more than shared data", "asyppo", "shared data", SPREAD),
        _over("The mean is better than the minimum", "asyppo", "minimum"),
    ),
    "The gate": (
        _over("The gate helps", "asyppo", "no gate"),
        _over("A gate of 20 % is better than one of 5 %", "asyppo", "gate 5 %"),
        _over("A gate of 20 % is better than one of 40 %", "asyppo", "gate 40 %"),
        _over("To gate by agreement is better than by low entropy", "asyppo", "gate of low entropy"),
        _over("Control: the gate does more than drop tokens", "asyppo", "random gate"),
        _over("Control: to gate by agreement is better than by disagreement", "asyppo", "gate of the widest spread"),
        _over("Control: the gate does more than skip small advantages", "asyppo", "gate of small advantages"),
        _over("Control: to gate by agreement is better than by high entropy", "asyppo", "gate of high entropy"),
    ),
    "The entropy filter": (
        _over("The filtered bonus is better than the naive one", "asyppo", "naive entropy bonus"),
        _over("The filtered bonus keeps more entropy than the naive one", "asyppo", "naive entropy bonus", ENTROPY),
        _over("The filtered bonus is better than none", "asyppo", "no entropy bonus"),
        _over("A filter of 20 % is better than one of 40 %", "asyppo", "entropy filtered 40 %"),
        _over("To filter by spread is better than by entropy", "asyppo", "entropy filtered by entropy"),
        _over("Control: the filter does more than drop tokens", "asyppo", "entropy filtered at random"),
    ),
    "Sample reuse": (
        _over("AsyPPO gains from four passes", "asyppo", "one pass"),
        _over("AsyPPO still gains from eight passes", "eight passes", "asyppo"),
        _over("At eight passes AsyPPO is better than GRPO", "eight passes", "grpo, eight passes"),
        _over("At eight passes AsyPPO is better than PPO", "eight passes", "ppo, eight passes"),
        _grows("Its lead over GRPO grows from one pass to eight", "grpo"),
        _grows("Its lead over PPO grows from one pass to eight", "ppo"),
    ),
    "Other critics (claims of their own papers)": (
        _over("Bounded values are better", "bounded critics", "asyppo"),
        _over("A loss normalized by noise is better", "noise-normalized critics", "asyppo"),
        _over("A switch by explained variance is better", "explained-variance switch", "asyppo"),
        _over("A blend with the prompt's mean is better", "learned blend", "asyppo"),
    ),
    "Left open by public notes": (
        _over("A blend by spread is better than the ensemble", "learned blend by spread", "asyppo"),
        _over("A blend by spread is better than a blend without it", "learned blend by spread", "learned blend"),
        _over("Critics that are updated first are better", "critics updated first", "asyppo"),
    ),
}  # fmt: skip

AFTERWARDS: tuple[tuple[str, str], ...] = (
    ("no gate", "grpo"),
    (ENSEMBLE, "grpo"),
    ("ppo", "grpo"),
    ("no gate", "ppo"),
    (ENSEMBLE, "ppo"),
    (ENSEMBLE, "symmetric critic"),
    ("gate 5 %", "no gate"),
    ("random gate", "no gate"),
    ("gate of the widest spread", "no gate"),
    ("gate of small advantages", "no gate"),
    ("gate of low entropy", "no gate"),
    ("one pass", "grpo, one pass"),
    ("ppo, eight passes", "grpo, eight passes"),
)
"""Pairs of arms that were compared after the verdicts; they decide nothing."""
