"""The family of tasks: a prompt data set with a verifier and a held-out split."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rl4llm.rewards import Reward, Scores, score_responses

Split = Literal["train", "validation", "test"]
Prompt = str | list[dict[str, str]]


@runtime_checkable
class CallsRewards(Protocol):
    """What can call a reward for many responses, such as the `Scorer` of `rl4llm.rewards`."""

    def score(self, reward: Reward, prompts: Sequence[Any], responses: Sequence[str], answers: Sequence[Any]) -> Scores:
        """Return one score per response."""


@dataclass(frozen=True)
class Example:
    """One prompt and what its verifier needs.

    Args:
        prompt: Text, or a list of chat messages (`{"role": ..., "content": ...}`) for the tokenizer's chat template.
        answer: What the reward compares with.
        uid: Stable identity of the prompt in its data set: a whole number of at least 0.
        demonstration: A response to imitate, for supervised training.
    """

    prompt: Prompt
    answer: Any
    uid: int
    demonstration: str | None = None


class Task(ABC):
    """A prompt data set with a verifier. `reward` is a field of every task.

    Attributes:
        reward: The verifier.
        correct_above: What the correctness of a response must exceed for it to count as correct, in accuracies and in
            the parts that learn from correct responses: its score or, where the reward says so, a component of it.
    """

    reward: Reward
    correct_above: float = 0.0

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Example]:
        """Return the examples of a split, a sequence of known length; the three splits share no prompt."""

    def prepare(self, splits: Sequence[Split]) -> None:  # noqa: B027
        """Check the data of the splits; it is called before any model is loaded. By default nothing is checked."""

    @abstractmethod
    def traits(self, response: str) -> Mapping[str, float]:
        """Return extra metrics to log next to the reward, such as whether the response reasons; may be empty."""


class PromptBatch:
    """The prompts of one step, as the loaders yield them, with the task whose reward scores the responses.

    This is a plain class on purpose: Lightning moves and casts what is inside dataclasses and collections, and refuses
    frozen dataclasses. Prompts are text, so there is nothing to move.

    Args:
        examples: The prompts, in order.
        task: The task that they belong to.
    """

    def __init__(self, examples: Sequence[Example], task: Task) -> None:
        self.examples, self.task = examples, task

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        return f"PromptBatch({len(self)} prompts of {type(self.task).__name__})"

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts as texts or chats."""
        return [example.prompt for example in self.examples]

    @property
    def uids(self) -> Int[Tensor, " prompt"]:
        """The prompts' stable identities."""
        return torch.tensor([example.uid for example in self.examples], dtype=torch.long)

    def part(self, places: range) -> "PromptBatch":
        """Return the prompts at these contiguous places, for example a rank's share of the batch; it may be empty."""
        return PromptBatch(self.examples[places.start : places.stop], self.task)

    def score(self, responses: Sequence[str], draws: Sequence[int], scorer: CallsRewards | None = None) -> Scores:
        """Score responses with the task's reward.

        Args:
            responses: Decoded responses.
            draws: `draws[i]` is the position of the prompt that response i answers.
            scorer: What calls the reward; None: this process does.
        """
        asked = [self.examples[draw] for draw in draws]
        prompts, answers = [example.prompt for example in asked], [example.answer for example in asked]
        score = score_responses if scorer is None else scorer.score
        return score(self.task.reward, prompts, responses, answers)

    def correct(self, found: Scores) -> Bool[Tensor, " batch"]:
        """Return which responses the task calls correct, given their scores."""
        return found.correct(above=self.task.correct_above)
