"""Prompts from JSON-lines files: one object a line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import Reward


@dataclass(frozen=True)
class JsonLines(Task):
    """A task from files: each line an object with a prompt (text or chat), an answer and, optionally, a response.

    Args:
        train: File of training prompts.
        reward: The verifier: any function `(prompt, response, answer) -> score`, given by its import path.
        validation: File of held-out prompts.
        test: File of test prompts; the validation file when not given.
        prompt_key: Field that holds the prompt.
        answer_key: Field that holds the answer (None reaches the reward where a line has none).
        demonstration_key: Field that holds a response to imitate, for supervised training.
    """

    train: str
    reward: Reward
    validation: str | None = None
    test: str | None = None
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    demonstration_key: str = "response"

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise UsageError(f"JsonLines: {name} file '{path}' does not exist; pass the path of a .jsonl file.")

    def examples(self, split: Split) -> Sequence[Example]:
        """The lines of the split's file; the uid is the line number within its file."""
        held_out = (self.test or self.validation) if split == "test" else self.validation
        path = self.train if split == "train" else held_out
        if path is None:
            return []
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [self._example(line, number, path) for number, line in enumerate(lines) if line.strip()]

    def _example(self, line: str, number: int, path: str) -> Example:
        where = f"JsonLines: {path} line {number + 1}"
        try:
            record: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{where} is not JSON ({error.msg}); write one object a line.") from None
        if not isinstance(record, dict) or self.prompt_key not in record:
            raise UsageError(f"{where} has no field '{self.prompt_key}'; name the prompt's field with prompt_key.")
        return Example(record[self.prompt_key], record.get(self.answer_key), number, record.get(self.demonstration_key))

    def traits(self, response: str) -> Mapping[str, float]:
        """None."""
        return {}
