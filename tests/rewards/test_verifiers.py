"""Verifiers by their results: exact, numeric and mathematical matches."""

import threading
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.rewards import ExactMatch, MathVerify, NumericMatch, Scoring, score_responses
from rl4llm.rewards.answers import last_box, last_boxed, last_number

needs_math = pytest.mark.skipif(find_spec("math_verify") is None, reason="needs math-verify")

EXACT = [
    (ExactMatch(), " New\n York ", "New York", 1.0),
    (ExactMatch(), "new york", "New York", 0.0),
    (ExactMatch(case_sensitive=False), "nEw york", "New York", 1.0),
    (ExactMatch(space_sensitive=True), "a ", "a", 0.0),
    (ExactMatch(), "yes.", "yes", 0.0),
    (ExactMatch(punctuation_sensitive=False), "(yes).", "yes", 1.0),
    (ExactMatch(), "b", ["a", "b"], 1.0),
    (ExactMatch(), "c", ["a", "b"], 0.0),
    (ExactMatch(), "7", 7, 1.0),
    (ExactMatch(), "ﬁne", "fine", 1.0),
    (ExactMatch(after="Answer:"), "Answer: 3. No: Answer: 4", "4", 1.0),
    (ExactMatch(after="Answer:"), "4", "4", 0.0),
    (ExactMatch(), "", "", 1.0),
]


@pytest.mark.parametrize(("verifier", "response", "answer", "score"), EXACT)
def test_exact_match(verifier, response, answer, score):
    assert verifier("", response, answer) == score


NUMBERS = [
    ("42.", 42.0),
    ("from 1,234 to 1,234,567.50", 1234567.5),
    ("1,2,3", 3.0),
    ("12,34", 34.0),
    ("10-3", 3.0),
    ("(2)-3", 3.0),
    ("x=-3", -3.0),
    ("−3", -3.0),
    ("costs $ .5", 0.5),
    ("6.02e23", 6.02e23),
    ("3 / 4", 0.75),
    (r"-\dfrac{3}{4}", -0.75),
    ("1{,}234 and 1\\,235", 1235.0),
    ("1/0", None),
    ("no number", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "so {}.", "= ${:,}$", r"\boxed{{{:,}}}"]))
def test_a_number_is_read_however_it_is_written(number, form):
    assert last_number(form.format(number)) == number
    assert NumericMatch()("", form.format(number), number) == 1.0
    assert NumericMatch()("", form.format(number + max(1, abs(number) // 1000)), number) == 0.0


NUMERIC = [
    ("any", r"1, then \boxed{2}, not 3", 1.0),
    ("any", "#### 2\n3", 1.0),
    ("any", "1 and 2", 1.0),
    ("last", r"\boxed{2}, not 3", 0.0),
    ("boxed", "2", 0.0),
    ("boxed", r"\boxed{x = 2}", 1.0),
    ("boxed", r"\boxed{2", 0.0),
    ("hashes", "2", 0.0),
    ("hashes", "#### 3\n#### 2 apples", 1.0),
]


@pytest.mark.parametrize(("where", "response", "score"), NUMERIC)
def test_where_the_number_stands_is_a_choice(where, response, score):
    assert NumericMatch(where)("", response, "8 / 4 = 2\n#### 2") == score


def test_the_tolerance_is_relative_and_absolute_below_one():
    assert [NumericMatch(tolerance=0.01)("", str(x), 200) for x in (198, 197.9, 202)] == [1.0, 0.0, 1.0]
    assert [NumericMatch(tolerance=0.01)("", str(x), 0) for x in (0.01, 0.011)] == [1.0, 0.0]
    assert NumericMatch(tolerance=0.0)("", "0.5", ["1", "1/2"]) == 1.0


@given(st.text(alphabet=st.sampled_from("{}\\boxed1a"), max_size=40))
def test_what_is_boxed_has_balanced_braces(text):
    found = last_boxed(text)
    assert found is None or (found.count("{") == found.count("}") and f"\\boxed{{{found}}}" in text)
    assert (found is None) == (last_box(text)[0] < 0)


@pytest.mark.parametrize(
    ("verifier", "answer", "reason"),
    [
        (ExactMatch(), None, "the example has no answer"),
        (ExactMatch(), [], "the example has no answer"),
        (NumericMatch(), "none", "the answer 'none' holds no number"),
        (NumericMatch(), "1" * 400, "holds no number"),
        pytest.param("MathVerify", "", "math-verify reads no expression", marks=needs_math),
        pytest.param("MathVerify", [None], "the example has no answer", marks=needs_math),
    ],
)
def test_an_answer_without_a_result_makes_the_response_unscorable(verifier, answer, reason):
    verifier = MathVerify() if verifier == "MathVerify" else verifier
    (problem,) = score_responses(verifier, [""], ["1"], [answer]).problems
    assert problem.startswith("raised ValueError")
    assert reason in problem


MATH = [
    (r"so \boxed{0.5}", r"\frac{1}{2}", 1.0),
    (r"so \boxed{\frac{2}{4}}", r"$\frac{1}{2}$", 1.0),
    ("it is 72", "8 * 9\n#### 72", 1.0),
    ("it is 73", "8 * 9\n#### 72", 0.0),
    (r"\boxed{2}", r"2\pi", 0.0),
    (r"\boxed{2\pi}", r"2\pi", 1.0),
    (r"\boxed{\{2, 1\}}", r"\{1, 2\}", 1.0),
    (r"\boxed{(1, 2)}", ["(2, 1)", "(1, 2)"], 1.0),
    ("no idea", "5", 0.0),
    ("", "5", 0.0),
]


@pytest.mark.parametrize(("response", "answer", "score"), MATH)
@needs_math
def test_math_verify(response, answer, score):
    assert MathVerify()("", response, answer) == score


@needs_math
def test_an_endless_expression_is_wrong_after_its_limit_and_the_others_are_scored_in_workers():
    scorer = Scoring(workers=1, timeout_s=30.0).build()
    responses = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{5}"]
    scores, problems = scorer.score(MathVerify(timeout_s=1), [""] * 2, responses, ["5"] * 2)
    scorer.close()
    assert scores.tolist() == [0.0, 1.0]
    assert not problems


@needs_math
def test_math_verify_works_in_a_thread_which_has_no_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(MathVerify()("", r"\boxed{5}", "5")))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("rl4llm.rewards.math_verify.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"MathVerify needs the package math-verify; run pip install 'rl4llm\[math\]'"):
        MathVerify()


@pytest.mark.parametrize(
    ("verifier", "values", "message"),
    [
        (ExactMatch, {"after": ""}, "ExactMatch: after is an empty text"),
        (NumericMatch, {"tolerance": -1.0}, r"NumericMatch: tolerance must be in \[0, inf\)"),
        (MathVerify, {"timeout_s": 0}, "MathVerify: timeout_s must be a whole number of at least 1"),
    ],
)
def test_settings_are_checked_at_construction(verifier, values, message):
    with pytest.raises(UsageError, match=message):
        verifier(**values)


def test_verifiers_that_find_one_answer_vote_with_it():
    votes = NumericMatch().extract
    assert votes("so 1,000") == votes(r"\boxed{1e3}") == "1000"
    assert votes("none") is None
    assert ExactMatch(after="Answer:", case_sensitive=False).extract("Answer: New\nYork") == "new york"
    assert ExactMatch(after="Answer:").extract("New York") is None
