"""The family of tasks: a prompt data set with a verifier and a held-out split."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from rl4llm.rewards import Reward, Scores, score_responses

Split = Literal["train", "validation", "test"]
Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Example:
    """One prompt and what its verifier needs.

    Args:
        prompt: Text, or a list of chat messages (`{"role": ..., "content": ...}`) for the tokenizer's chat template.
        answer: What the reward compares with.
        uid: Stable identity of the prompt in its data set.
        demonstration: A response to imitate, for supervised training.
    """

    prompt: Prompt
    answer: Any
    uid: int
    demonstration: str | None = None


class Task(ABC):
    """A prompt data set with a verifier. `reward` is a field of every task."""

    reward: Reward

    @abstractmethod
    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split, by index; the three splits share no prompt."""

    @abstractmethod
    def traits(self, response: str) -> Mapping[str, float]:
        """Numbers worth a curve beside the reward, such as whether the response reasons; may be empty."""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one step, as the loader yields them: no tensors to move, and the verifier that belongs to them.

    Args:
        examples: The prompts, in order.
        task: Where they come from.
    """

    examples: Sequence[Example]
    task: Task

    def __len__(self) -> int:
        return len(self.examples)

    def to(self, *args: Any, **kwargs: Any) -> "PromptBatch":
        """Itself: prompts are text, and have no device."""
        return self

    @property
    def prompts(self) -> list[Prompt]:
        """Texts or chats."""
        return [example.prompt for example in self.examples]

    @property
    def uids(self) -> Int[Tensor, " prompt"]:
        """Stable identities."""
        return torch.tensor([example.uid for example in self.examples], dtype=torch.long)

    def score(self, responses: Sequence[str], draws: Sequence[int]) -> Scores:
        """Score responses; `draws[i]` says which of the prompts response i answers."""
        asked = [self.examples[draw] for draw in draws]
        prompts, answers = [example.prompt for example in asked], [example.answer for example in asked]
        return score_responses(self.task.reward, prompts, responses, answers)
