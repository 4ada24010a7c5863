"""Checks of a task before training: its reward, its examples and its traits."""

import inspect
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.data.prompts import check_prompt
from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import WeightedSum


def check_reward(task: Task) -> None:
    """Raise unless the task's reward can be called with a prompt, a response and an answer.

    Raises:
        UsageError: Naming the task and what is wrong with its reward.
    """
    reward: Any = getattr(task, "reward", None)
    what = f"reward of {type(task).__name__}"
    _check_callable(reward, what)
    for name, component in reward.components.items() if isinstance(reward, WeightedSum) else ():
        _check_callable(component, f"component '{name}' of the {what}")


def _check_callable(reward: Any, what: str) -> None:
    remedy = "give a function (prompt, response, answer) -> score"
    if reward is None or isinstance(reward, str) or not callable(reward):
        raise UsageError(f"the {what} is {reward!r}; {remedy}.")
    name = getattr(reward, "__name__", type(reward).__name__)
    if inspect.iscoroutinefunction(reward):
        raise UsageError(f"the {what}, '{name}', is asynchronous; {remedy} that returns the score itself.")
    try:
        signature = inspect.signature(reward)
    except (TypeError, ValueError):  # functions written in C may have none
        return
    try:
        signature.bind("", "", "")
    except TypeError:
        raise UsageError(f"the {what} is {name}{signature}, which does not take 3 arguments; {remedy}.") from None


def checked_examples(task: Task, split: Split) -> Sequence[Example]:
    """Return the examples of a split after checking all of a list or tuple, or the first of any other sequence.

    Raises:
        UsageError: Naming the task, the place and what is wrong there.
    """
    name = f"{type(task).__name__}.examples('{split}')"
    try:
        examples: Any = task.examples(split)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name} raised {described(error)}; mend the task or what it reads.") from error
    if not (hasattr(examples, "__len__") and hasattr(examples, "__getitem__")):
        raise UsageError(f"{name} returned a {type(examples).__name__}; return a list or another sequence of Example.")
    known: dict[int, Any] = {}
    for index in range(len(examples) if isinstance(examples, list | tuple) else min(1, len(examples))):
        _check_example(examples[index], f"{name}[{index}]", known)
    return examples


def _check_example(example: Any, where: str, known: dict[int, Any]) -> None:
    if not isinstance(example, Example):
        raise UsageError(f"{where} is a {type(example).__name__}; make every entry an Example.")
    uid: Any = example.uid
    if not isinstance(uid, int) or isinstance(uid, bool) or not 0 <= uid < 2**63:
        raise UsageError(f"{where} has the uid {uid!r}; give every Example a whole number of at least 0.")
    check_prompt(example.prompt, f"{where}: its prompt")
    if known.setdefault(uid, example.prompt) != example.prompt:
        raise UsageError(f"{where} has the uid {uid} of another prompt; give every prompt a uid of its own.")


def checked_traits(task: Task, response: str) -> dict[str, float]:
    """Return the traits of a response as numbers.

    Raises:
        UsageError: If the task raises, or gives no names with numbers.
    """
    name = f"{type(task).__name__}.traits"
    try:
        given: Any = task.traits(response)
    except Exception as error:
        raise UsageError(f"{name} raised {described(error)}") from error
    if not isinstance(given, Mapping):
        raise UsageError(f"{name} returned a {type(given).__name__} instead of names with numbers")
    try:
        return {str(trait): float(value) for trait, value in given.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name} returned {str(given)[:80]}, which are no numbers") from error


def described(error: Exception) -> str:
    """Describe an exception of a user's code: type, message and line."""
    lines, frames = str(error).strip().splitlines(), traceback.extract_tb(error.__traceback__)
    said = f": {lines[0][:160]}" if lines else ""
    place = f" ({frames[-1].filename.rpartition('/')[2]}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{said}{place}"
