"""The laws of advantage estimators: what their declared properties promise."""

from random import Random

import torch
from torch import Tensor

from rl4llm.advantages import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.testing.bias import expected_update, policy_gradient
from rl4llm.testing.laws import Law, close
from rl4llm.testing.reference.oracles import ORACLES
from rl4llm.testing.views import in_domain, outputs, with_scores


def _advantages(part: AdvantageEstimator, batch: RolloutBatch) -> Tensor:
    return outputs(part, batch)[0]


def unscorable_left_out(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """A response that could not be scored has advantage 0 and changes that of no other."""
    row = random.randrange(len(batch))
    failed = batch.scores.clone()
    failed[row] = float("nan")
    with_failure = with_scores(batch, failed)
    others = torch.arange(len(batch)) != row
    got = _advantages(part, with_failure)
    assert not got[row].any(), f"response {row} could not be scored and has advantage {got[row].tolist()}"
    if others.any():
        close(
            got[others], _advantages(part, with_failure.select(others)), f"without unscorable response {row} the rest"
        )


def apart_from_strangers(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """What an advantage depends on is what the estimator declares: nothing but its response, or its group."""
    if part.compares == "batch":
        return
    row = random.randrange(len(batch))
    unit = torch.arange(len(batch)) == row
    if part.compares == "group":
        unit = batch.group_ids == batch.group_ids[row]
    whole, alone = _advantages(part, batch)[unit], _advantages(part, batch.select(unit))
    close(alone, whole, f"without the rows outside its {part.compares.replace('nothing', 'response')}, row {row}")


def ties_are_silent(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """A group whose scores are all equal gives exactly 0, and so does a group of one."""
    if part.compares != "group" or "shift" not in part.invariances:
        return
    score = random.choice([0.0, 1.0, 0.1, 1e4, 1 / 3])
    tied = _advantages(part, with_scores(batch, torch.full_like(batch.scores, score)))
    assert not tied.any(), f"all scores are {score}, and the advantages {tied.tolist()}"
    alone = batch.replace(group_ids=torch.arange(len(batch)))
    assert not _advantages(part, alone).any(), "a response without siblings has an advantage"


def shift_invariant(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """Adding a number to the scores of a group changes nothing, where that is declared."""
    if "shift" in part.invariances:
        _near(part, batch, batch.scores + random.choice([-2.0, 0.5, 8.0]), 1.0)


def scale_invariant(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """Multiplying the scores changes nothing ("scale"), or multiplies the advantages ("homogeneous")."""
    factor = random.choice([0.25, 2.0, 16.0])
    if "scale" in part.invariances:
        _near(part, batch, factor * batch.scores, 1.0)
    if "homogeneous" in part.invariances:
        _near(part, batch, factor * batch.scores, factor)


def _near(part: AdvantageEstimator, batch: RolloutBatch, scores: Tensor, factor: float) -> None:
    before, after = (_advantages(part, with_scores(batch, given)) for given in (batch.scores, scores))
    size = 1e-9 * (1.0 + batch.scores.nan_to_num().abs().max())
    assert ((after - factor * before).abs() <= size + 1e-6 * before.abs()).all(), (
        f"advantages {before.tolist()} become {after.tolist()}"
    )


def expected_update_as_declared(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """Over all tuples of responses, the mean update is the declared multiple of the policy gradient."""
    for size in range(max(1, part.smallest_group), 4):
        factor = part.update_scale(size)
        if factor is None:
            continue
        logits = torch.tensor([random.uniform(-1.5, 1.5) for _ in range(3)], dtype=torch.float64)
        arms = [0.0, 1.0, 1.0] if part.domain == "binary" else [random.uniform(0.0, 2.0) for _ in range(3)]
        scores = torch.tensor(arms, dtype=torch.float64)
        got, true = expected_update(part, logits, scores, size), policy_gradient(logits, scores)
        assert torch.allclose(got, factor * true, atol=1e-9), (
            f"with groups of {size} the expected update is {got.tolist()}, and {factor:g} of the policy gradient is "
            f"{(factor * true).tolist()}"
        )


def equals_its_reference(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """Advantages and value targets are those of the slow reference, where there is one."""
    if type(part) in ORACLES:
        batch = in_domain(part, batch)
        size = 1e-9 * (1.0 + batch.scores.nan_to_num().abs().max())
        for name, got, expected in zip(Advantages._fields, part(batch), ORACLES[type(part)](part, batch), strict=True):
            assert (got is None) == (expected is None), f"{name}: {got} where the reference has {expected}"
            assert got is None or expected is None or ((got - expected).abs() <= size + 1e-6 * expected.abs()).all(), (
                f"{name} are {got.tolist()}, and those of the reference {expected.tolist()}"
            )


ESTIMATORS = (
    Law(
        "responses that could not be scored are left out",
        unscorable_left_out,
        "take statistics over rows whose score is a number, and give the others 0",
    ),
    Law(
        "an advantage depends on its response or group only",
        apart_from_strangers,
        "declare compares='batch' if that is meant; otherwise reduce by group_ids",
    ),
    Law("equals its slow reference", equals_its_reference, "compare response by response with the reference"),
    Law("ties are silent", ties_are_silent, "where all scores of a group are equal, give 0 instead of dividing"),
    Law("shift invariance as declared", shift_invariant, "subtract a baseline that moves with the scores"),
    Law("scale invariance as declared", scale_invariant, "add nothing to the standard deviation before dividing"),
    Law(
        "the expected update is as declared",
        expected_update_as_declared,
        "a baseline must not depend on the response's own score (leave one out), or declare update_scale",
    ),
)
