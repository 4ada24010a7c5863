"""The kit finds the field's classic bugs, says them readably, and works on functions of other libraries."""

import dataclasses
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

from rl4llm.advantages import GAE, Advantages, GroupRelative, LeaveOneOut
from rl4llm.checks import UsageError
from rl4llm.command import checking
from rl4llm.gates import AgreementGate
from rl4llm.objectives import PPOClip, TokenMean
from rl4llm.regularizers import EntropyBonus
from rl4llm.testing import (
    BrokenLawsError,
    Domain,
    Law,
    broken,
    check,
    check_advantage_estimator,
    check_aggregator,
    check_gate,
    check_objective,
    check_regularizer,
    check_reward,
    domains,
    examine,
    expected_update,
    from_log_probs,
    from_scores,
    from_token_rewards,
    laws_of,
    policy_gradient,
    require,
    runner,
)
from tests.testing import wrong_estimators, wrong_losses
from tests.testing.wrong_estimators import ReadsPadding

FEW = 20
CAUGHT = [*wrong_estimators.CAUGHT, *wrong_losses.CAUGHT]


@pytest.fixture(autouse=True)
def with_wrong_shapes(unchecked_shapes):
    """Wrong parts give what the annotations forbid."""


@pytest.mark.parametrize(("part", "law"), CAUGHT, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_a_classic_bug_breaks_the_law_that_is_meant_for_it(part, law):
    (meant,) = [one for one in laws_of(part) if one.name == law]
    failure = broken(part, meant, examples=100)
    assert failure is not None, f"{type(part).__name__} passes '{law}'"
    assert failure.reason
    assert failure.remedy
    assert f"remedy: {failure.remedy}" in str(failure)


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


class TakesNothing(LeaveOneOut):
    def __call__(self):
        return None


MISTAKES = [
    (lambda: check(None), "None is no part; pass an instance of a family"),
    (lambda: check("GAE"), "'GAE' is no part"),
    (lambda: check(LeaveOneOut), r"LeaveOneOut is a class; pass an instance, such as LeaveOneOut\(\)"),
    (lambda: check(lambda batch: batch), "belongs to no family of parts; wrap a plain function with from_scores"),
    (lambda: check(TakesNothing()), r"TakesNothing.__call__: too many .*; the loop calls it with \(batch\)"),
    (lambda: check(GAE(), examples=0), "examples must be a whole number of at least 1, got 0"),
    (lambda: check_gate(GAE()), r"check_gate: .* is no Gate"),
    (lambda: check_gate(AgreementGate), "AgreementGate is a class"),
    (lambda: from_scores(None), "None is not callable"),
    (
        lambda: from_scores(lambda scores: scores),
        r"too many positional arguments; it is called as .*\(scores, group_ids",
    ),
    (lambda: from_scores(lambda scores: scores, order="scores", eps=1.0), r"unexpected keyword argument 'eps'"),
    (lambda: from_scores(lambda a, b: a, order="scores group"), "order names 'group'; known are .*group_ids"),
    (lambda: from_log_probs(lambda old, new: old), "too many positional arguments"),
]


@pytest.mark.parametrize(("call", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_wrong_argument_is_one_line(call, said):
    with pytest.raises(UsageError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- one finding for each cause --------------------------------------------------------------------------------------


class Refuses(LeaveOneOut):
    """Raises on responses without tokens, as some libraries do."""

    def __call__(self, batch):
        if not batch.response_mask.any(-1).all():
            raise ValueError("an empty response")
        return super().__call__(batch)


class TwoFaults(Refuses):
    """Refuses empty responses, and depends on the scores of all others."""

    @torch.no_grad()
    def __call__(self, batch):
        own = super().__call__(batch).advantages
        return Advantages(torch.where(own != 0, own - batch.scores.nan_to_num().sum(), 0.0))


class NaNAlone(LeaveOneOut):
    """Divides by the number of siblings."""

    def __call__(self, batch):
        siblings = (batch.group_ids[:, None] == batch.group_ids).sum(-1, keepdim=True).to(batch.scores.dtype) - 1.0
        given = super().__call__(batch).advantages * siblings / siblings
        return Advantages(torch.where(batch.response_mask & ~batch.scores.isnan()[:, None], given, 0.0))


class NaNAbove(LeaveOneOut):
    """Gives NaN wherever a score is above 0."""

    def __call__(self, batch):
        given = super().__call__(batch).advantages
        return Advantages(torch.where(batch.response_mask & (batch.scores > 0)[:, None], torch.nan, given))


FOUND = [
    (Refuses(), [("finite, and 0 where the mask is False", "rows")]),
    (wrong_estimators.NaNAsZero(), [("responses that could not be scored are left out", "scores")]),
    (NaNAlone(), [("ties are silent", "groups")]),
    (
        TwoFaults(),
        [
            ("finite, and 0 where the mask is False", "rows"),
            ("an advantage depends on its response or group only", None),
            ("shift invariance as declared", None),
        ],
    ),
]


@pytest.mark.long
@pytest.mark.parametrize(("part", "found"), FOUND, ids=lambda x: type(x).__name__)
def test_each_cause_is_one_finding(part, found):
    told = [(one.law.name, one.kind) for one in examine(part, laws_of(part), examples=FEW)]
    assert set(found) <= set(told)
    assert len(told) <= len(found) + 2, told


@pytest.mark.long
def test_a_part_that_fails_on_plain_batches_is_one_finding():
    first, *others = examine(NaNAbove(), laws_of(NaNAbove()), examples=FEW)
    assert (first.law.name, first.kind) == ("finite, and 0 where the mask is False", None)
    assert "the dtype of the inputs is kept" in first.also
    assert not [one for one in others if one.law.name in first.also]


def test_a_finding_names_the_other_laws_and_the_domain_to_state():
    some = [law for law in laws_of(Refuses()) if law.name.startswith(("finite", "masked positions are"))]
    with pytest.raises(BrokenLawsError) as caught:
        require(Refuses(), some, examples=FEW)
    said = str(caught.value)
    assert said.startswith("Refuses() breaks 2 of 2 laws for 1 cause:")
    assert 'responses without tokens: check(..., rows="non-empty")' in said
    assert "broken for the same cause: masked positions are never read" in said


def test_a_part_is_examined_on_what_it_promises():
    check(Refuses(), examples=5, rows="non-empty")
    check_advantage_estimator(wrong_estimators.NaNAsZero(), examples=5, scores="scored")
    with pytest.raises(UsageError, match="check: rows"):
        check(Refuses(), rows="full")


def test_the_command_knows_the_fields_of_a_domain():
    told = {name: (narrow, domains.SAID[name]) for name, narrow in domains.NARROW.items()}
    assert told == checking.KINDS


def alone(batch):
    """The number of responses without siblings."""
    return sum(count == 1 for count in Counter(batch.group_ids.tolist()).values())


DOMAINS = {
    "rows": ("non-empty", lambda b: b.response_mask.any(-1).all()),
    "masks": ("contiguous", lambda b: (b.response_mask.long().diff(dim=-1) <= 0).all()),
    "scores": ("scored", lambda b: not b.scores.isnan().any()),
    "groups": ("differing", lambda b: len(set(b.scores.tolist())) == len(b) and alone(b) == 0),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_draws_what_it_says(name):
    narrow, inside = DOMAINS[name]
    assert not all(inside(batch) for batch, _ in runner._drawn(FEW))
    drawn = [batch for batch, _ in runner._drawn(FEW, Domain(**{name: narrow}))]
    assert all(inside(batch) for batch in drawn)
    for other in [other for other in DOMAINS if other != name]:
        assert not all(DOMAINS[other][1](batch) for batch in drawn)


def law(part, name):
    (named,) = [one for one in laws_of(part) if one.name.startswith(name)]
    return named


def test_a_flipped_sign_is_said_to_be_one():
    estimator, objective = wrong_estimators.FlippedSign(), wrong_losses.WrongSign()
    higher = broken(estimator, law(estimator, "a higher score"), examples=FEW)
    assert "the sign is flipped: the expected update is −1 times the policy gradient" in higher.reason
    assert broken(estimator, law(estimator, "the expected update"), examples=FEW) is None  # one cause, one law
    gradient = broken(objective, law(objective, "the policy gradient"), examples=FEW)
    assert "the sign is flipped: at ratio 1 the gradient is −1 times the policy gradient" in gradient.reason


def test_an_undeclared_comparison_is_told_what_to_declare():
    class Undeclared(LeaveOneOut):
        compares = "nothing"

    found = str(broken(Undeclared(), law(Undeclared(), "an advantage depends"), examples=FEW))
    assert "compares is 'nothing'" in found
    assert 'declare what it compares, compares="group"' in found


# --- functions of other libraries ------------------------------------------------------------------------------------


def clipped(old_log_probs, log_probs, advantages, mask, clip=0.2):
    ratio = torch.where(mask > 0, log_probs - old_log_probs, 0.0).exp()
    kept = torch.where(mask > 0, advantages, 0.0)
    return -torch.minimum(ratio * kept, ratio.clamp(1 - clip, 1 + clip) * kept)


ADAPTED = [
    (from_token_rewards(lambda r, v, m: r * m - v * m), "masked positions may hold anything", True),
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
def test_the_plugin_says_what_is_wrong_with_its_arguments(tmp_path):
    part = "rl4llm.advantages:LeaveOneOut"
    code, said = pytest_on(tmp_path, "--rl4llm", part, "--rl4llm-domain", "row=any")
    assert code == 4, said
    assert "--rl4llm-domain row=any: " in said
    code, said = pytest_on(tmp_path, "--rl4llm", part, "--rl4llm", "rl4llm.advantages:LeavOneOut")
    assert code == 4, said
    assert "did you mean LeaveOneOut?" in said


@pytest.mark.long
def test_the_plugin_runs_one_test_per_law_and_fails_once_per_cause(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rl4llm.advantages import LeaveOneOut\n\n\nclass Refuses(LeaveOneOut):\n    def __call__(self, batch):\n"
        "        assert batch.response_mask.any(-1).all(), 'an empty one'\n        return super().__call__(batch)\n"
    )
    code, said = pytest_on(tmp_path, "--rl4llm", "rl4llm.advantages:LeaveOneOut", "--rl4llm", "mine:Refuses", "-rs")
    count = len(laws_of(LeaveOneOut()))
    assert code == 1, said
    passed, skipped = (int(re.search(rf"(\d+) {word}", said)[1]) for word in ("passed", "skipped"))
    assert "1 failed" in said
    assert passed + skipped + 1 == 2 * count
    assert skipped > 5
    assert "broken for the same cause as 'finite, and 0 where the mask is False'" in said


# --- the page that goes from a wrong estimator to a right one ---------------------------------------------------------


@pytest.mark.long
def test_the_page_says_what_the_kit_says(capsys):
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


def test_a_law_that_holds_is_tested_on_every_batch_that_is_drawn():
    tested = []
    assert broken(GAE(), Law("tested", lambda *given: tested.append(given), ""), examples=FEW) is None
    assert len(tested) == len(runner._drawn(FEW)) == FEW
    for (_, batch, random), (expected, seed) in zip(tested, runner._drawn(FEW), strict=True):
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
