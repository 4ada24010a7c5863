"""Scores with components, weighted sums, and the one definition of a correct response."""

import os
import pickle
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.rewards import (
    Batched,
    BatchVerifier,
    ExactMatch,
    Format,
    NumericMatch,
    RegexMatch,
    Repetition,
    ResponseLength,
    Score,
    Scores,
    Scoring,
    WeightedSum,
    batched,
    score_responses,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")
WORKERS = Scoring(workers=2, timeout_s=20.0).build()


def both_ways(reward, responses, answers=None):
    """Scores of worker processes, which must be those of this process."""
    answers = answers or [None] * len(responses)
    here = score_responses(reward, [""] * len(responses), responses, answers)
    there = WORKERS.score(reward, [""] * len(responses), responses, answers)
    for name in ("scores", "correctness"):
        torch.testing.assert_close(getattr(here, name), getattr(there, name), equal_nan=True, rtol=0, atol=0)
    assert {name: values.tolist() for name, values in there.components.items()}.keys() == here.components.keys()
    for name, values in here.components.items():
        torch.testing.assert_close(there.components[name], values, equal_nan=True, rtol=0, atol=0)
    assert (here.problems, here.lost) == (there.problems, there.lost)
    return there


BONUS = WeightedSum({"correct": ExactMatch(after=":"), "format": Format("a:.*")}, {"format": 0.1})


def test_a_bonus_makes_no_response_correct():
    found = both_ways(BONUS, ["a:1", "a:2", "b:1", "b"], ["1"] * 4)
    torch.testing.assert_close(found.scores, torch.tensor([1.1, 0.1, 1.0, 0.0]))
    assert found.correct().tolist() == [True, False, True, False]
    assert found.components["format"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert found.components["correct"].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_the_threshold_is_that_of_the_component():
    found = both_ways(WeightedSum({"correct": Repetition(1), "other": ResponseLength()}), ["a b", "a a", "a a a a"])
    assert found.correct(above=0.5).tolist() == [False, False, True]
    assert found.scores.tolist() == [1.0, 1.5, 1.75]


def test_without_a_component_that_says_so_the_sum_does():
    found = both_ways(WeightedSum({"a": lambda p, r, a: len(r)}, {"a": -1.0}, correct=None), ["x", ""])
    assert found.correct(above=-1.0).tolist() == [False, True]
    assert found.correct(above=-2.0).tolist() == [True, True]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5))
def test_a_sum_is_linear_in_its_components(pairs):
    parts = {str(i): (lambda p, r, a, value=value: value) for i, (value, _) in enumerate(pairs)}
    weights = {str(i): weight for i, (_, weight) in enumerate(pairs)}
    score = WeightedSum(parts, weights, correct="0")("", "", None)
    assert score.value == pytest.approx(sum(value * weight for value, weight in pairs), abs=1e-9)
    assert score.correctness == pairs[0][0]
    assert list(score.components.values()) == [value for value, _ in pairs]


def test_a_component_that_fails_costs_the_response_and_is_named():
    def fails(prompt, response, answer):
        return {"raise": lambda: 1 / 0, "none": lambda: None, "text": lambda: "high", "nan": lambda: float("nan")}.get(
            response, lambda: 1.0
        )()

    found = both_ways(
        WeightedSum({"correct": lambda p, r, a: 1, "style": fails}), ["fine", "raise", "none", "text", "nan"]
    )
    assert found.scores.isnan().tolist() == [False, True, True, True, True]
    assert found.problems == {
        "component 'style' raised ZeroDivisionError, for example 'division by zero'": 1,
        "component 'style' returned None": 1,
        "component 'style' returned a str, not a number, for example 'high'": 1,
        "component 'style' returned nan": 1,
    }
    assert list(found.lost.values()) == ["raise", "none", "text", "nan"]


def test_a_sum_within_a_sum_keeps_its_components_and_its_correctness():
    outer = WeightedSum({"correct": BONUS, "short": ResponseLength(most=1)}, {"correct": 2.0})
    found = both_ways(outer, ["a:2"], ["1"])
    torch.testing.assert_close(found.scores, torch.tensor([1.2]))
    assert set(found.components) == {"correct", "correct/correct", "correct/format", "short"}
    assert found.correct().tolist() == [False]


MAPPINGS = [
    ({"correct": 1, "format": 0.5}, 1.5, 1.0, {"correct": 1.0, "format": 0.5}),
    ({"score": 0.3, "correct": False, "len": 7}, 0.3, 0.0, {"correct": 0.0, "len": 7.0}),
    ({"score": 2.0}, 2.0, 2.0, {}),
    ({"a": torch.tensor(1.0)}, 1.0, 1.0, {"a": 1.0}),
    (Score(1.0, {"a": 2}, correctness=0), 1.0, 0.0, {"a": 2.0}),
]


@pytest.mark.parametrize(("result", "score", "correctness", "components"), MAPPINGS)
def test_a_mapping_or_a_score_names_its_components(result, score, correctness, components):
    found = both_ways(lambda p, r, a: result, ["x"])
    torch.testing.assert_close(found.scores, torch.tensor([score]))
    assert found.correctness.tolist() == [correctness]
    assert {name: values.item() for name, values in found.components.items()} == components


FAULTY = [
    ({}, "returned an empty mapping"),
    ({"a": "high"}, "component 'a' returned a str"),
    ({"a": None, "score": 1.0}, "component 'a' returned None"),
    ({"score": float("nan")}, "returned nan"),
    ({"a": 1e39}, r"component 'a' returned a number beyond"),
    ({3: 1.0}, "returned a component whose name is a int"),
    ({str(i): 0.0 for i in range(33)}, "returned a score whose components are no mapping of at most 32 names"),
    (Score(1.0, {}, correctness="yes"), "returned a str, not a number"),
    (Score(1.0, [1.0]), "returned a score whose components are no mapping"),
]


@pytest.mark.parametrize(("result", "reason"), FAULTY)
def test_a_faulty_component_makes_the_response_unscorable(result, reason):
    found = score_responses(lambda p, r, a: result, [""], ["said"], [None])
    (named,) = found.problems
    assert named.startswith(reason)
    assert found.scores.isnan().all()
    assert found.correct().tolist() == [False]
    assert found.lost == {named: "said"}


def test_responses_without_a_component_are_left_out_of_its_mean():
    found = both_ways(lambda p, r, a: {"a": 1.0} if r else 0.5, ["x", ""])
    assert found.components["a"].isnan().tolist() == [False, True]
    assert found.scores.tolist() == [1.0, 0.5]


def test_a_worker_that_dies_after_a_score_keeps_it_and_loses_its_own_response():
    found = WORKERS.score(
        lambda p, r, a: os._exit(1) if r == "bad" else {"a": 2.0}, [""] * 4, ["x", "bad", "x", "x"], [0] * 4
    )
    assert found.scores.isnan().tolist() == [False, True, False, False]
    assert found.components["a"].isnan().tolist() == [False, True, False, False]
    assert found.lost == {"ended its process with exit code 1": "bad"}


def test_scores_unpack_into_scores_and_problems():
    scores, problems = Scores(torch.tensor([1.0]), {"x": 1})
    assert (scores.tolist(), problems) == ([1.0], {"x": 1})


def test_a_pattern_that_backtracks_for_ever_costs_one_response():
    scorer = Scoring(workers=2, timeout_s=1.0).build()
    found = scorer.score(Format("(a+)+"), [""] * 3, ["aaa", "a" * 40 + "b", "b"], [None] * 3)
    scorer.close()
    assert found.scores.nan_to_num(-1.0).tolist() == [1.0, -1.0, 0.0]
    assert found.problems == {"took longer than 1 s": 1}


@pytest.mark.parametrize(
    ("verifier", "response", "score"),
    [
        (RegexMatch("=(.)"), "=1 =4 ", 1.0),
        (RegexMatch("=(.)"), "=4 =1", 0.0),
        (RegexMatch("=(.)"), "4", 0.0),
        (RegexMatch(r"\d"), "1 4", 1.0),
        (RegexMatch("<(.*)>"), "<\n4 >", 1.0),
        (Format("<a>.*</a>"), " <a>\n</a>\n", 1.0),
        (Format("<a>.*</a>"), "x <a></a>", 0.0),
        (Format("<a>.*</a>", whole=False), "x <a></a>", 1.0),
        (ResponseLength(2, 3), "a b", 1.0),
        (ResponseLength(2, 3), "a", 0.0),
        (ResponseLength(2, 3), "a b c d", 0.0),
        (ResponseLength(most=3, unit="characters"), "a b", 1.0),
        (Repetition(2), "a", 0.0),
        (Repetition(2), "a b c", 0.0),
        (Repetition(1), "a a a a", 0.75),
        (Repetition(2, unit="characters"), "abab", 1 / 3),
    ],
)
def test_forms_lengths_and_repetitions(verifier, response, score):
    assert verifier("", response, "4") == pytest.approx(score)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Format("("), r"Format: pattern '\(' is no regular expression"),
        (lambda: RegexMatch("(a)(b)"), "RegexMatch: pattern .* has several groups; keep one"),
        (lambda: ResponseLength(3, 2), "ResponseLength: most is 2, least 3"),
        (lambda: Repetition(0), "Repetition: size must be a whole number of at least 1"),
        (lambda: WeightedSum({}), "WeightedSum: components is empty"),
        (lambda: WeightedSum({"a": NumericMatch()}), "correct names 'correct'; the components are a; .* correct=null"),
        (lambda: WeightedSum({"corect": NumericMatch()}), "correct names 'correct'; did you mean 'corect'"),
        (lambda: WeightedSum({"correct": NumericMatch()}, {"b": 1.0}), "weights names 'b'; the components are correct"),
        (lambda: WeightedSum({"correct": NumericMatch()}, {"correct": float("inf")}), "the weight of 'correct' is inf"),
    ],
)
def test_settings_are_checked_at_construction(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_verifiers_are_values():
    for one in (BONUS, NumericMatch(), Format("a"), Repetition()):
        assert pickle.loads(pickle.dumps(one)) == one
        assert hash(pickle.loads(pickle.dumps(one))) == hash(one)


def test_a_batched_function_is_a_reward():
    def columns(prompts, completions, target, **rest):
        return [float(text == wanted) for text, wanted in zip(completions, target, strict=True)]

    def named(completions):
        return torch.tensor([float(len(completions[0][0]["content"]))])

    assert both_ways(batched(columns), ["4", "5"], [{"target": "4", "extra": 1}] * 2).scores.tolist() == [1.0, 0.0]
    assert Batched(named)([{"role": "user", "content": "?"}], "four", "x") == 4.0
    found = score_responses(Batched(lambda completions: 1.0), [""], ["x"], [None])
    assert list(found.problems) == [
        "raised ValueError, for example \"the function returned '1.0' instead of a list with one score\""
    ]


class Counting(BatchVerifier):
    """Scores a batch at once, and keeps where and of how many."""

    def __init__(self, fault=None):
        self.calls, self.fault = [], fault

    def score_batch(self, prompts, responses, answers, device):
        self.calls.append((os.getpid(), len(responses), device))
        if self.fault:
            raise self.fault
        return [float(len(response)) for response in responses]


def test_a_batch_verifier_runs_once_in_this_process_also_within_a_sum():
    alone, within = Counting(), Counting()
    found = WORKERS.score(alone, [""] * 3, ["a", "bb", ""], [None] * 3)
    assert found.scores.tolist() == [1.0, 2.0, 0.0]
    total = WeightedSum(
        {"correct": lambda p, r, a: float(r == a), "model": within, "pid": lambda p, r, a: os.getpid()}, {"pid": 0.0}
    )
    found = WORKERS.score(total, [""] * 3, ["a", "bb", ""], ["a", "b", ""])
    assert found.scores.tolist() == [2.0, 2.0, 1.0]
    assert found.correct().tolist() == [True, False, True]
    assert os.getpid() not in found.components["pid"].tolist()
    assert alone.calls == within.calls == [(os.getpid(), 3, "cpu")]


def test_a_batch_verifier_that_raises_loses_its_batch_with_the_reason():
    found = WORKERS.score(Counting(RuntimeError("no memory")), [""] * 2, ["a", "b"], [None] * 2)
    assert found.problems == {"raised RuntimeError, for example 'no memory'": 2}
    with pytest.raises(UsageError, match="mend me"):
        WORKERS.score(Counting(UsageError("mend me.")), [""], ["a"], [None])
