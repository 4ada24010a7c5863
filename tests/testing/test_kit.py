"""The kit finds the field's classic bugs, says them readably, and works on functions of other libraries."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from rl4llm.advantages import GAE, GroupRelative, LeaveOneOut
from rl4llm.checks import UsageError
from rl4llm.gates import AgreementGate
from rl4llm.objectives import PPOClip, TokenMean
from rl4llm.regularizers import EntropyBonus
from rl4llm.testing import (
    BrokenLawsError,
    Law,
    broken,
    check,
    check_advantage_estimator,
    check_aggregator,
    check_gate,
    check_objective,
    check_regularizer,
    check_reward,
    expected_update,
    from_log_probs,
    from_scores,
    from_token_rewards,
    laws_of,
    policy_gradient,
    rollouts,
    runner,
)
from tests.testing import wrong_estimators, wrong_losses
from tests.testing.wrong_estimators import ReadsPadding

FEW = 20
CAUGHT = [*wrong_estimators.CAUGHT, *wrong_losses.CAUGHT]


@pytest.fixture(autouse=True)
def impatient(monkeypatch, unchecked_shapes):
    """Smaller counterexamples are nicer to read, and slower to find; so is what the annotations forbid."""
    monkeypatch.setattr("rl4llm.testing.runner._Search.patience", 8)


@pytest.mark.parametrize(("part", "law"), CAUGHT, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_a_classic_bug_breaks_the_law_that_is_meant_for_it(part, law):
    (meant,) = [one for one in laws_of(part) if one.name == law]
    failure = broken(part, meant, examples=100)
    assert failure is not None, f"{type(part).__name__} passes '{law}'"
    assert failure.reason
    assert failure.law.remedy in str(failure)


@pytest.mark.parametrize(
    ("checker", "part"),
    [
        (check_advantage_estimator, GAE()),
        (check_advantage_estimator, LeaveOneOut()),
        (check_gate, AgreementGate()),
        (check_objective, PPOClip()),
        (check_aggregator, TokenMean()),
        (check_regularizer, EntropyBonus()),
    ],
    ids=lambda x: getattr(x, "__name__", repr(x)),
)
def test_parts_of_the_library_pass(checker, part):
    checker(part, examples=10)


def test_all_broken_laws_are_in_one_message_with_example_and_remedy():
    with pytest.raises(BrokenLawsError) as caught:
        check(ReadsPadding(), examples=FEW)
    said = str(caught.value)
    assert said.startswith("ReadsPadding() breaks ")
    assert said.count("✗") == len(caught.value.broken) >= 2
    assert said.count("remedy:") == len(caught.value.broken)
    assert "response_mask=torch.tensor([[" in said


def test_the_wrong_family_and_bare_functions_are_one_line():
    with pytest.raises(UsageError, match=r"check_gate: .* is no Gate"):
        check_gate(GAE())
    with pytest.raises(UsageError, match="belongs to no family of parts; wrap a plain function"):
        check(lambda batch: batch)


# --- functions of other libraries ------------------------------------------------------------------------------------


def clipped(old_log_probs, log_probs, advantages, mask, clip=0.2):
    ratio = torch.where(mask > 0, log_probs - old_log_probs, 0.0).exp()
    kept = torch.where(mask > 0, advantages, 0.0)
    return -torch.minimum(ratio * kept, ratio.clamp(1 - clip, 1 + clip) * kept)


ADAPTED = [
    (from_token_rewards(lambda r, v, m: r * m - v * m), "masked positions are never read", True),
    (from_scores(lambda scores, index: scores - scores.mean(), order="scores index"), "an advantage depends", True),
    (from_log_probs(clipped), "gradient reaches the policy's own outputs only", True),
    (from_log_probs(lambda o, n, a, m: clipped(o.detach(), n, a.detach(), m)), "gradient reaches the policy's", False),
]


@pytest.mark.parametrize(("part", "law", "breaks"), ADAPTED, ids=["rewards", "scores", "loss", "detached"])
def test_functions_of_other_libraries_are_checked_as_they_are(part, law, breaks):
    (meant,) = [one for one in laws_of(part) if one.name.startswith(law)]
    assert (broken(part, meant, examples=100) is not None) == breaks


# --- exact expectations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_leave_one_out_is_unbiased_and_the_mean_is_short_of_it(size):
    logits, scores = torch.tensor([0.3, -0.5, 1.0]).double(), torch.tensor([0.0, 1.0, 0.4]).double()
    true = policy_gradient(logits, scores)
    torch.testing.assert_close(expected_update(LeaveOneOut(), logits, scores, size), true)
    centred = expected_update(GroupRelative(normalize_std=False), logits, scores, size)
    torch.testing.assert_close(centred, (size - 1) / size * true)
    scaled = expected_update(GroupRelative(), logits, scores, size)
    assert not torch.allclose(scaled / scaled[0], true / true[0], rtol=1e-3)


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_rewards_that_forget_raise_or_prefer_nonsense_are_found():
    check_reward(lambda prompt, response, answer: float(response == answer), right="2")
    calls = iter(range(10**6))
    with pytest.raises(AssertionError, match=r"once and .* then"):
        check_reward(lambda prompt, response, answer: float(next(calls)))
    with pytest.raises(AssertionError, match="could not be scored: raised ZeroDivisionError"):
        check_reward(lambda prompt, response, answer: 1 / len(response))
    with pytest.raises(AssertionError, match="more than the right one's"):
        check_reward(lambda prompt, response, answer: float(len(response)), right="2")


# --- the pytest plugin -----------------------------------------------------------------------------------------------


def pytest_on(folder, *args):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rl4llm-examples=10",
        *args,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_the_plugin_says_what_is_wrong_with_its_argument(tmp_path):
    for place, message in (("no.such:Thing", "No module named"), ("rl4llm.advantages:Nope", "has no attribute")):
        code, said = pytest_on(tmp_path, "--rl4llm", place)
        assert code == 4, said
        assert message in said


@pytest.mark.long
def test_the_plugin_runs_one_test_a_law_with_nothing_else_written(tmp_path):
    code, said = pytest_on(tmp_path, "--rl4llm", "rl4llm.advantages:LeaveOneOut", "-q")
    assert code == 0, said
    assert f"{len(laws_of(LeaveOneOut()))} passed" in said


# --- the page that goes from a wrong estimator to a right one ---------------------------------------------------------


@pytest.mark.long
def test_the_page_says_what_the_kit_says(capsys, monkeypatch):
    monkeypatch.setattr("rl4llm.testing.runner._Search.patience", 60)
    page = (Path(__file__).parents[2] / "docs" / "guide" / "is-my-estimator-right.md").read_text(encoding="utf-8")
    names = {"__name__": "page"}
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for language, block in blocks:
        if language == "python":
            exec(block, names)
    said = capsys.readouterr().out.splitlines()
    quoted = "\n".join(block for language, block in blocks if not language).splitlines()
    assert quoted
    for line in quoted:
        assert "..." in line or not line.strip() or line in said, line


# --- batches drawn once ---------------------------------------------------------------------------------------------


def test_a_law_that_holds_sees_every_batch_that_is_drawn():
    seen, drawn = [], []
    assert broken(GAE(), Law("sees", lambda *given: seen.append(given), ""), examples=FEW) is None
    runner._examine(lambda *given: drawn.append(given), FEW, rollouts())
    assert len(seen) == len(drawn) == FEW
    for (_, batch, random), (expected, seed) in zip(seen, drawn, strict=True):
        assert random.getstate() == Random(seed).getstate()
        same = {f.name: (getattr(batch, f.name), getattr(expected, f.name)) for f in dataclasses.fields(batch)}
        for name, (got, wanted) in same.items():
            torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_law_that_writes_into_its_batches_leaves_those_of_the_next_law_alone():
    totals = []

    def writes(part, batch, random):
        totals.append(batch.values.sum().item())
        batch.values.fill_(1e6)

    for _ in range(2):
        assert broken(GAE(), Law("writes", writes, ""), examples=FEW) is None
    assert totals[:FEW] == totals[FEW:]


def test_a_law_that_breaks_on_the_last_batch_alone_is_broken():
    *_, (last, _) = runner._drawn(FEW)

    def breaks(part, batch, random):
        assert not torch.equal(batch.values, last.values)

    assert broken(GAE(), Law("breaks", breaks, ""), examples=FEW) is not None
