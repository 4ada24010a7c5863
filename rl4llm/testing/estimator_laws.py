"""The laws of advantage estimators: what their declared properties promise."""

from random import Random

import torch
from torch import Tensor

from rl4llm.advantages import AdvantageEstimator, Advantages
from rl4llm.batch import RolloutBatch
from rl4llm.masked import keep
from rl4llm.testing.bias import expected_update, policy_gradient
from rl4llm.testing.faults import RoundedError
from rl4llm.testing.laws import Law, close
from rl4llm.testing.reference.oracles import ORACLES
from rl4llm.testing.views import in_domain, outputs, short, with_scores


def _advantages(part: AdvantageEstimator, batch: RolloutBatch) -> Tensor:
    """Return the advantages of trained tokens; that they are 0 elsewhere is a law of its own."""
    return keep(outputs(part, batch)[0], batch.response_mask)


def unscorable_left_out(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """A response that could not be scored has advantage 0 and changes that of no other."""
    row = random.randrange(len(batch))
    failed = batch.scores.clone()
    failed[row] = float("nan")
    with_failure = with_scores(batch, failed)
    others = torch.arange(len(batch)) != row
    got = _advantages(part, with_failure)
    assert not got[row].any(), (
        f"when the score of response {row} is NaN, its advantages are {short(got[row])}, and 0 is expected"
    )
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
    whose = part.compares.replace("nothing", "response")
    close(alone, whole, f"compares is {part.compares!r}; without the rows outside its {whose}, row {row}")


def ties_are_silent(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """A group whose scores are all equal gives exactly 0, and so does a group of one."""
    if part.compares != "group" or "shift" not in part.invariances:
        return
    score = random.choice([0.0, 1.0, 0.1, 1e4, 1 / 3])
    tied = _advantages(part, with_scores(batch, torch.full_like(batch.scores, score)))
    assert not tied.any(), f"all scores are {score:.6g}, and the advantages {short(tied)}"
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
    size = 1.0 + batch.scores.nan_to_num().abs().max()
    apart = (after - factor * before).abs()
    if (apart > 1e-9 * size + 1e-6 * before.abs()).any():
        said = f"advantages {short(before)} become {short(after)}"
        gaps = batch.scores[~batch.scores.isnan()].unique().diff()
        gap = (
            gaps.min().clamp(max=1.0) if len(gaps) else 1.0
        )  # float32 rounds scores, and a spread may be as small as this
        raise RoundedError(said) if (apart <= 1e-5 * (8.0 + size) / gap).all() else AssertionError(said)


def higher_score_not_lower(part: AdvantageEstimator, batch: RolloutBatch, random: Random) -> None:
    """A higher score gives no lower advantage than the lower score did, or gives a sibling now."""
    batch = in_domain(part, with_scores(batch, batch.scores))
    row = random.randrange(len(batch))
    step = 1.0 if part.domain == "binary" else random.choice([0.5, 2.0, 8.0])
    raised = batch.scores.clone()
    raised[row] = 1.0 if part.domain == "binary" else raised[row] + step
    before, after = _advantages(part, batch), _advantages(part, with_scores(batch, raised))
    slack = 1e-6 * (1.0 + batch.scores.nan_to_num().abs().max())
    assert not (after[row] < before[row] - slack).any(), (
        f"response {row} has the advantages {short(before[row])} with the score {batch.scores[row]:g}, and "
        f"{short(after[row])} with {raised[row]:g}{_sign(part)}"
    )
    if part.compares == "group":
        _higher_than_siblings(part, before, batch, float(slack))


def _higher_than_siblings(part: AdvantageEstimator, advantages: Tensor, batch: RolloutBatch, slack: float) -> None:
    """Compare responses whose tokens all have one advantage, which is then the response's own."""
    mask = batch.response_mask
    top, low = (torch.where(mask, advantages, fill) for fill in (-torch.inf, torch.inf))
    own = mask.any(-1) & (top.amax(-1) - low.amin(-1) <= slack)
    one, other = own[:, None] & own, batch.group_ids[:, None] == batch.group_ids
    above = one & other & (batch.scores[:, None] > batch.scores)
    wrong = above & (top.amax(-1)[:, None] < top.amax(-1) - slack)
    if wrong.any():
        i, j = wrong.nonzero()[0].tolist()
        raise AssertionError(
            f"response {i} with score {batch.scores[i]:g} has advantage {top[i].max():.6g}, its sibling {j} with score "
            f"{batch.scores[j]:g} has {top[j].max():.6g}{_sign(part)}"
        )


def _sign(part: AdvantageEstimator) -> str:
    """Say that the sign is flipped if the exact expected update points against the policy gradient."""
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
    scores = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    try:
        got = expected_update(part, logits, scores, max(2, part.smallest_group))
    except Exception:  # it cannot be called on such a batch
        return ""
    true = policy_gradient(logits, scores)
    factor = float(got.norm() / true.norm())
    if torch.allclose(got, -factor * true):
        return f"; the sign is flipped: the expected update is −{factor:.3g} times the policy gradient"
    return "; the sign is flipped: the expected update points against the policy gradient" if got @ true < 0 else ""


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
        if torch.allclose(got, -factor * true, atol=1e-9):
            return  # a flipped sign is a cause of its own
        what = f"with groups of {size}, for which {factor:g} times the policy gradient is declared, the expected update"
        close(got, factor * true, what)


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
        about="scores",
    ),
    Law(
        "an advantage depends on its response or group only",
        apart_from_strangers,
        'declare what it compares, compares="group" or compares="batch" in the class or adapter, or reduce over its '
        "own rows only",
    ),
    Law("equals its slow reference", equals_its_reference, "compare response by response with the reference"),
    Law(
        "ties are silent",
        ties_are_silent,
        "where all scores of a group are equal, give 0 instead of dividing",
        about="groups",
    ),
    Law(
        "a higher score never gives a lower advantage",
        higher_score_not_lower,
        "subtract the baseline from the score, not the score from the baseline",
    ),
    Law("shift invariance as declared", shift_invariant, "subtract a baseline that moves with the scores"),
    Law("scale invariance as declared", scale_invariant, "add nothing to the standard deviation before dividing"),
    Law(
        "the expected update is as declared",
        expected_update_as_declared,
        "a baseline must not depend on the response's own score (leave one out), or declare update_scale",
    ),
)
