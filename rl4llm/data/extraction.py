"""The answer that a response gives, for votes and tables: the task's own, the reward's own, or what marks an answer."""

import warnings
from functools import lru_cache
from typing import Protocol, runtime_checkable

from rl4llm.data.checking import described
from rl4llm.data.task import Task
from rl4llm.rewards.answers import last_box


@runtime_checkable
class ExtractsAnswers(Protocol):
    """What can say which answer a response gives: a task, or its reward. Equal answers are equal texts."""

    def extract(self, response: str) -> str | None:
        r"""Return the answer in its canonical form (`1/2`, not `\frac{1}{2}`); None if the response gives none."""


def extracted_answer(task: Task, response: str) -> str | None:
    """Return the answer that a response gives.

    A task with a method `extract` says it; otherwise its reward does, if it has such a method; otherwise
    [last_answer][rl4llm.data.extraction.last_answer] looks for a mark. A method that raises finds no answer, and one
    warning says so.

    Args:
        task: The task that the response belongs to.
        response: The decoded response.

    Returns:
        The answer without surrounding space; None if there is none.

    Example:
        >>> from rl4llm.data import AbsoluteDifference
        >>> extracted_answer(AbsoluteDifference(), "(0530986)6")
        '6'
    """
    for part in (task, task.reward):
        if isinstance(part, ExtractsAnswers):
            try:
                found = part.extract(response)
            except Exception as error:
                _warn(f"{type(part).__name__}.extract raised {described(error)}")
                return None
            return None if found is None else str(found).strip()
    return last_answer(response)


def last_answer(response: str) -> str | None:
    r"""Return what stands in the last `\boxed{...}` or `<answer>...</answer>`, or behind the last `####`.

    Of several marks the one that begins last counts. Braces inside a box are balanced; a box or a tag that is not
    closed marks nothing.

    Args:
        response: The decoded response.

    Returns:
        The answer without surrounding space; None if nothing is marked.

    Example:
        >>> last_answer(r"first \boxed{1}, then \boxed{\frac{1}{2}}."), last_answer("#### 72"), last_answer("72")
        ('\\frac{1}{2}', '72', None)
    """
    marked = response.rfind("####")
    end = response.rfind("</answer>")
    tagged = response.rfind("<answer>", 0, max(end, 0))
    found = [last_box(response)]
    found += [(marked, response[marked + 4 :].partition("\n")[0])] if marked >= 0 else []
    found += [(tagged, response[tagged + 8 : end])] if tagged >= 0 else []
    place, answer = max(found)
    return answer.strip() if place >= 0 else None


@lru_cache(maxsize=8)
def _warn(fault: str) -> None:
    warnings.warn(f"{fault}; such responses count as giving no answer.", stacklevel=3)
