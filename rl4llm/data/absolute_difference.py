"""The embedded task: a running absolute difference of digits, with more or fewer of its steps written down."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from rl4llm.checks import UsageError, check_at_least, check_interval
from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import Reward

_SPLITS = 16  # one sixteenth of all prompts each for validation and test


def running_differences(digits: Sequence[int]) -> list[int]:
    """x₁ ... xₙ₋₁ with x₀ = the first digit and xᵢ = |xᵢ₋₁ − digitᵢ|.

    Example:
        >>> running_differences([5, 8, 3, 9, 1, 2])
        [3, 0, 9, 8, 6]
    """
    value, steps = digits[0], []
    for digit in digits[1:]:
        value = abs(value - digit)
        steps.append(value)
    return steps


def answer_after_thinking(prompt: Any, response: str, answer: str) -> float:
    """1 if the text after the single `)` is the answer, else 0.

    Example:
        >>> answer_after_thinking("583912=", "(30986)6", "6"), answer_after_thinking("583912=", "()7", "6")
        (1.0, 0.0)
    """
    _, closing, final = response.partition(")")
    return float(closing == ")" and final == answer)


@dataclass(frozen=True)
class AbsoluteDifference(Task):
    """Prompts such as `00583912=`, answered `(0530986)6`: every step, then the answer. Dots stand for steps not shown.

    Each step is easy; folding several at once is hard. Most demonstrations show no step, `(.......)6`, and others stop
    early, `(0530...)6`. A response that stops tends to fail, which can be seen from its first dot on. Short numbers are
    led by zeros and leave little to fold, so a prompt shows how hard it is.

    Args:
        digits: Length of the prompt.
        shortest: Fewest digits of a number without its leading zeros; lengths up to `digits` are equally likely. If it
            equals `digits`, only the hardest prompts are left.
        train_size: Prompts of an epoch.
        held_out_size: Prompts of the validation and of the test split.
        seed: Which prompts are drawn.
        think_share: Share of the demonstrations that show steps.
        stop_share: Chance that such a demonstration stops before its next step.
        reward: The verifier.
        correct_above: What a score must exceed for its response to count as correct.
    """

    digits: int = 10
    shortest: int = 2
    train_size: int = 100_000
    held_out_size: int = 512
    seed: int = 0
    think_share: float = 0.35
    stop_share: float = 0.1
    reward: Reward = answer_after_thinking
    correct_above: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("AbsoluteDifference", 3, digits=self.digits)
        check_at_least("AbsoluteDifference", 1, shortest=self.shortest)
        check_at_least("AbsoluteDifference", 1, train_size=self.train_size, held_out_size=self.held_out_size)
        check_interval("AbsoluteDifference", 0.0, 1.0, think_share=self.think_share, stop_share=self.stop_share)
        if self.shortest > self.digits:
            raise UsageError(
                f"AbsoluteDifference: shortest is {self.shortest}, digits {self.digits}; numbers have at least "
                "`shortest` of the prompt's `digits`, so lower the one or raise the other."
            )

    def examples(self, split: Split) -> Sequence[Example]:
        """Drawn on the fly, example i always the same; a prompt belongs to one split by its number."""
        return _Drawn(self, split, self.train_size if split == "train" else self.held_out_size)

    def traits(self, response: str) -> Mapping[str, float]:
        """`thinks`: the share of the steps that are shown."""
        steps = response.removeprefix("(").partition(")")[0]
        return {"thinks": sum(step != "." for step in steps) / max(len(steps), 1)}

    def extract(self, response: str) -> str | None:
        """Return the text after the first `)`; None without one."""
        _, closing, final = response.partition(")")
        return final if closing else None

    def demonstrate(self, steps: Sequence[int], draw: random.Random) -> str:
        """Return a response with the right answer that shows some of the steps."""
        stops = [draw.random() < self.stop_share for _ in steps]
        shown = 0 if draw.random() >= self.think_share else [*stops, True].index(True)
        return f"({''.join(map(str, steps[:shown])).ljust(len(steps), '.')}){steps[-1]}"


@dataclass(frozen=True)
class _Drawn(Sequence[Example]):
    task: AbsoluteDifference
    split: Split
    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"{self.split} has {self.size} examples, asked for {index}")
        draw = random.Random(f"{self.task.seed}/{self.split}/{self.task.digits}/{index % self.size}")
        number = next(n for n in iter(lambda: self._number(draw), -1) if _split_of(n) == self.split)
        text = str(number).zfill(self.task.digits)
        steps = running_differences([int(digit) for digit in text])
        return Example(f"{text}=", str(steps[-1]), number, self.task.demonstrate(steps, draw))

    def _number(self, draw: random.Random) -> int:
        length = draw.randint(self.task.shortest, self.task.digits)
        return draw.randrange(10 ** (length - 1), 10**length)


def _split_of(number: int) -> Split:
    bucket = (number * 2654435761 >> 16) % _SPLITS
    return "validation" if bucket == 0 else "test" if bucket == 1 else "train"
