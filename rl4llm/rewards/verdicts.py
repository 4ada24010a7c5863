"""What a call of a reward comes to: a score, or the problem that makes the response unscorable."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

LARGEST_SCORE = 1e9  # squares of scores, summed over 10^20 responses, still fit into float32
_MOST_REASONS = 10  # per batch
_MOST_KINDS = 100  # per run
_OTHER = "other reasons"


class Problem(NamedTuple):
    """Why a response could not be scored: the kind, by which problems are counted, and details of this case."""

    kind: str
    detail: str = ""


def call_reward(reward: Any, prompt: Any, response: str, answer: Any, largest: float) -> float | Problem:
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


def read_score(result: Any, largest: float) -> float | Problem:
    """Read a reward's result as a score."""
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


def count_problems(problems: Iterable[Problem], details: dict[str, str]) -> dict[str, int]:
    """Count problems by reason; there are few distinct reasons, whatever the messages of the cases are.

    Args:
        problems: One problem per response that could not be scored, in the order of the responses.
        details: The first details of each kind, which stand for all of its kind; new kinds are added. A caller that
            passes the same dictionary again gets the same reason for the same kind.

    Returns:
        The number of responses for each reason.
    """
    counts: dict[str, int] = {}
    for kind, detail in problems:
        if kind not in details and len(details) < _MOST_KINDS:
            details[kind] = detail
        reason = _OTHER if kind not in details else f"{kind}, {details[kind]}" if details[kind] else kind
        if reason not in counts and len(counts) >= _MOST_REASONS:
            reason = _OTHER
        counts[reason] = counts.get(reason, 0) + 1
    return counts


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
