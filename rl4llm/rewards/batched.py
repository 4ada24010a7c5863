"""`Batched`: a reward function that takes lists of prompts and completions and the columns of the data set."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.rewards.base import Verifier


@dataclass(frozen=True)
class Batched(Verifier):
    """A function `(prompts, completions, **columns) -> scores`, as TRL calls its rewards, called for one response.

    The columns are the fields of an answer that is a mapping; any other answer is the column `answer`. A function
    without `**columns` receives those that it names. For a prompt of chat messages the completion is a message too.

    Args:
        function: The function; it returns a list with one score per completion.

    Example:
        >>> def short(completions, limit, **columns):
        ...     return [float(len(text) <= most) for text, most in zip(completions, limit)]
        >>> Batched(short)("Be brief.", "Yes.", {"limit": 5})
        1.0
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(
                f"Batched: function is {self.function!r}; pass a function (prompts, completions, **columns)."
            )

    def __call__(self, prompt: Any, response: str, answer: Any) -> Any:
        """Return what the function says about one response.

        Raises:
            ValueError: If it does not return one score.
        """
        said = response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]
        fields = answer if isinstance(answer, Mapping) else {"answer": answer}
        given = {"prompts": [prompt], "completions": [said], **{name: [value] for name, value in fields.items()}}
        scores = self.function(**self._named(given))
        if not hasattr(scores, "__len__") or len(scores) != 1:
            raise ValueError(f"the function returned {str(scores)[:80]!r} instead of a list with one score")
        return scores[0]

    def _named(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the function takes."""
        parameters = inspect.signature(self.function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return given
        names = {parameter.name for parameter in parameters}
        return {name: values for name, values in given.items() if name in names}


def batched(function: Callable[..., Any]) -> Batched:
    """Return a reward from a function `(prompts, completions, **columns) -> scores`. See [Batched][].

    Args:
        function: The function, written for the `reward_funcs` of TRL.

    Returns:
        A reward that calls it for one response at a time.

    Example:
        >>> batched(lambda prompts, completions: [float(len(text)) for text in completions])("Say yes.", "yes", None)
        3.0

    References:
        TRL's custom reward functions, https://huggingface.co/docs/trl/grpo_trainer.
    """
    return Batched(function)
