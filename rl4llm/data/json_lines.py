"""Prompts from JSON-lines files: one object per line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl4llm.checks import UsageError
from rl4llm.data.reading import Fields, read_examples, source, warn_of_overlap
from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import Reward


@dataclass(frozen=True)
class JsonLines(Task):
    """A task from files: each line an object with a prompt (text or chat), an answer and, optionally, a response.

    Args:
        train: File of training prompts.
        reward: The verifier: the name of a class of `rl4llm.rewards`, or the import path of any function
            `(prompt, response, answer) -> score`.
        validation: File of held-out prompts.
        test: File of test prompts; the validation file when not given.
        prompt_key: Field that holds the prompt.
        answer_key: Field that holds the answer (None reaches the reward where a line has none).
        demonstration_key: Field that holds a response to imitate, for supervised training.
        correct_above: What a score must exceed for its response to count as correct.
    """

    train: str
    reward: Reward
    validation: str | None = None
    test: str | None = None
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    demonstration_key: str = "response"
    correct_above: float = 0.0

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                fault = "is a folder" if Path(path).is_dir() else "does not exist"
                raise UsageError(f"JsonLines: {name} file '{path}' {fault}; pass the path of a .jsonl file.")

    def examples(self, split: Split) -> Sequence[Example]:
        """Return one example per line of the split's file.

        The uid is the line's number within its file, counted from 0; a line that repeats the prompt and the answer of
        an earlier line has that line's uid. A file is parsed once, and again when it has changed.
        """
        held_out = (self.test or self.validation) if split == "test" else self.validation
        path = self.train if split == "train" else held_out
        if path is None:
            return []
        fields = Fields(self.prompt_key, self.answer_key, self.demonstration_key)
        if split != "train":
            warn_of_overlap(source(self.train), source(path), fields)
        return list(read_examples(source(path), fields))

    def traits(self, response: str) -> Mapping[str, float]:
        """None."""
        return {}
