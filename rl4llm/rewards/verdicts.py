"""What a call of a reward comes to: a score, or the problem that makes the response unscorable."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

LARGEST_SCORE = 1e9  # squares of scores, summed over 10^20 responses, still fit into float32
_MOST_COMPONENTS = 32  # per score
_MOST_REASONS = 10  # per batch
_MOST_KINDS = 100  # per run
_OTHER = "other reasons"


class Problem(NamedTuple):
    """Why a response could not be scored: the kind, by which problems are counted, and details of this case."""

    kind: str
    detail: str = ""


class Score(NamedTuple):
    """A score with its components, which are logged by name.

    A reward may also return a mapping of names to numbers, which is read as such a score: its value is the entry
    `score` if there is one, and otherwise the sum of all entries; its correctness is the entry `correct`, if any.

    Args:
        value: The number that the policy is trained on.
        components: Numbers to log, by name.
        correctness: The number that says whether the response is correct; None: the value says so.
    """

    value: float
    components: Mapping[str, float] = {}
    correctness: float | None = None


def call_reward(reward: Any, prompt: Any, response: str, answer: Any, largest: float) -> float | Score | Problem:
    """Score one response; whatever the reward raises, apart from KeyboardInterrupt, becomes a problem."""
    process = os.getpid()
    try:
        return read_score(reward(prompt, response, answer), largest)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return describe_error(error)
    finally:
        if os.getpid() != process:  # the reward forked, and this is the copy: it must not go on as a second run
            os._exit(0)


def read_score(result: Any, largest: float) -> float | Score | Problem:
    """Read a reward's result as a score."""
    if isinstance(result, Problem):
        return result
    if isinstance(result, Mapping):
        result = _score_of(result)
    return _read_named(result, largest) if isinstance(result, Score) else _read_number(result, largest)


def _score_of(named: Mapping[str, Any]) -> Score | Problem:
    """The score that a mapping stands for; a sum of what are no numbers is left to the reading of each."""
    components = {name: value for name, value in named.items() if name != "score"}
    if not named:
        return Problem("returned an empty mapping")
    if "score" in named:
        return Score(named["score"], components, named.get("correct"))
    try:
        return Score(sum(map(float, components.values())), components, named.get("correct"))
    except Exception:  # an object's own conversion may raise anything; the component that does so is named later
        return Score(0.0, components)


def _read_named(score: Score, largest: float) -> Score | Problem:
    """Read every number of a score."""
    if not isinstance(score.components, Mapping) or len(score.components) > _MOST_COMPONENTS:
        return Problem(f"returned a score whose components are no mapping of at most {_MOST_COMPONENTS} names")
    read: dict[str, float] = {}
    for name, given in score.components.items():
        if not isinstance(name, str):
            return Problem(f"returned a component whose name is a {_name(name)}, not a text")
        number = _read_number(given, largest)
        if isinstance(number, Problem):
            return Problem(f"component '{_cut(name, 40)}' {number.kind}", number.detail)
        read[name] = number
    value = _read_number(score.value, largest)
    correctness = value if score.correctness is None else _read_number(score.correctness, largest)
    if isinstance(value, Problem) or isinstance(correctness, Problem):
        return value if isinstance(value, Problem) else correctness  # type: ignore[return-value]
    return Score(value, read, correctness)


def _read_number(result: Any, largest: float) -> float | Problem:
    if result is None:
        return Problem("returned None")
    if isinstance(result, str | bytes | bytearray):
        return Problem(f"returned a {type(result).__name__}, not a number", _example(_shown(result)))
    try:
        score = float(result)
    except OverflowError:
        return Problem(f"returned a number beyond ±{largest:g}", _example(_shown(result)))
    except Exception:  # an object's own conversion may raise anything
        return Problem(f"returned a {_name(result)}, not a number", _example(_shown(result)))
    if score != score or score in (float("inf"), float("-inf")):
        return Problem(f"returned {score}")
    if abs(score) > largest:
        return Problem(f"returned a number beyond ±{largest:g}", _example(f"{score:g}"))
    return score


def describe_error(error: BaseException) -> Problem:
    """Describe an exception by its type, with its message as the example."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # an exception's own text may raise
        lines = []
    return Problem(f"raised {_name(error)}", _example(repr(_cut(lines[0]))) if lines else "")


def reasons_of(problems: Iterable[Problem], details: dict[str, str]) -> list[str]:
    """Return the reason of each problem; there are few distinct reasons, whatever the messages of the cases are.

    Args:
        problems: One problem per response that could not be scored, in the order of the responses.
        details: The first details of each kind, which stand for all of its kind; new kinds are added. A caller that
            passes the same dictionary again gets the same reason for the same kind.
    """
    reasons: list[str] = []
    distinct: set[str] = set()
    for kind, detail in problems:
        if kind not in details and len(details) < _MOST_KINDS:
            details[kind] = detail
        reason = _OTHER if kind not in details else f"{kind}, {details[kind]}" if details[kind] else kind
        if reason not in distinct and len(distinct) >= _MOST_REASONS:
            reason = _OTHER
        distinct.add(reason)
        reasons.append(reason)
    return reasons


def _example(text: str) -> str:
    return f"for example {text}"


def _shown(result: Any) -> str:
    try:
        return _cut(repr(result)).replace("\n", " ")
    except Exception:  # an object's own repr may raise anything; that of an int of 10,000 digits does
        return f"a large {_name(result)}" if isinstance(result, int) else f"a {_name(result)}"


def _name(value: Any) -> str:
    return type(value).__name__[:60]


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
