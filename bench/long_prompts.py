"""`LongPrompts`: digits that ask nothing, for measuring prompts of any length."""

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import Reward


def variety(prompt: object, response: str, answer: object) -> float:
    """Score a response that cannot be right: the share of its characters that are distinct."""
    return len(set(response)) / max(1, len(response))


def lottery(prompt: object, response: str, answer: object) -> float:
    """Score a response in [0, 1) by nothing that could be learned, and the same every time."""
    return zlib.crc32(response.encode()) / 2**32


@dataclass(frozen=True)
class LongPrompts(Task):
    """Prompts of random digits, each of them a token of the embedded model and of SmolLM2.

    Args:
        tokens: Length of every prompt.
        size: Number of prompts.
        reward: Gives unequal scores, so that there is something to learn.
    """

    tokens: int = 128
    size: int = 1024
    reward: Reward = variety

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the same prompts every time; each split has its own."""
        draw = random.Random(split)
        return [Example("".join(draw.choices("0123456789", k=self.tokens)), "", uid) for uid in range(self.size)]

    def traits(self, response: str) -> Mapping[str, float]:
        """Return nothing."""
        return {}
