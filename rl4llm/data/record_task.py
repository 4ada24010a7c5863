"""`RecordTask`: the base of tasks whose prompts are records with columns, whatever file or data set holds them."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rl4llm.checks import UsageError, check_choice, check_interval
from rl4llm.data.answers import AnswerForm
from rl4llm.data.columns import Keys
from rl4llm.data.json_records import Record
from rl4llm.data.parsing import parsed, part_of, warn_of_overlap
from rl4llm.data.prompt_format import PromptFormat
from rl4llm.data.record_examples import Layout
from rl4llm.data.sources import Source, check_files
from rl4llm.data.task import Example, Split, Task
from rl4llm.rewards import Reward

Repeats = Literal["keep", "drop"]
_WHERE = ("train", "validation", "test")


@dataclass(frozen=True)
class RecordTask(Task):
    """A task whose prompts are records with columns.

    Subclasses say where the records come from; which columns they are made of, how a prompt is written and which part
    is held out is the same for all.

    Args:
        train: Where the training prompts are.
        reward: The verifier: the name of a class of `rl4llm.rewards`, or the import path of any function
            `(prompt, response, answer) -> score`.
        validation: Where the held-out prompts are.
        test: Where the test prompts are; the validation prompts when not given.
        prompt_key: Column of the prompt, a text or a chat; a path such as extra_info.question reaches into nested
            columns, and a|b is the first of two that the data have.
        answer_key: Column of the answer; None if the reward needs no answer.
        answer_form: Form of the answer column: the answer alone (whole), a solution that ends with the answer after
            hashes (####) or in \\boxed{}, or a list of answers.
        demonstration_key: Column of a response to imitate, for supervised training.
        prompt: How the columns become a prompt: template, chat, system prompt, few-shot examples.
        repeats: Whether records that repeat an earlier question are kept or dropped; they are counted either way.
        validation_share: Share of the training prompts that are held out for validation, chosen by a hash of the
            question; instead of `validation`.
        test_share: The same for the test prompts; instead of `test`.
        correct_above: What a score must exceed for its response to count as correct.
    """

    train: str | None
    reward: Reward
    validation: str | None = None
    test: str | None = None
    prompt_key: str = "prompt"
    answer_key: str | None = "answer"
    answer_form: AnswerForm = "whole"
    demonstration_key: str = "response"
    prompt: PromptFormat = PromptFormat()  # noqa: RUF009
    repeats: Repeats = "keep"
    validation_share: float = 0.0
    test_share: float = 0.0
    correct_above: float = 0.0
    unit: ClassVar[str] = "row"
    whence: ClassVar[str] = "train, validation or test to a file"

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_choice(name, ("whole", "hashes", "boxed", "list"), answer_form=self.answer_form)
        check_choice(name, ("keep", "drop"), repeats=self.repeats)
        check_interval(
            name, 0.0, 1.0, "[)", validation_share=self.validation_share, test_share=self.test_share,
            both_shares=self.validation_share + self.test_share,
        )  # fmt: skip
        for split in ("validation", "test"):
            if getattr(self, split) is not None and getattr(self, f"{split}_share"):
                raise UsageError(f"{name}: {split} and {split}_share are both given; set one of the two.")
        if isinstance(self.prompt.few_shot, str):
            check_files(name, "few_shot", self.prompt.few_shot, ".jsonl")
        for field in _WHERE:
            place = getattr(self, field)
            if place is not None:
                self.check_place(field, place)
        if self.train is None and self.validation is None and self.test is None:
            raise UsageError(f"{name}: no data are given; set {self.whence}.")

    @abstractmethod
    def check_place(self, field: str, place: str) -> None:
        """Raise a `UsageError` if there is nothing at the place that a field such as `train` names."""

    @abstractmethod
    def sources(self, place: str) -> tuple[Source, ...]:
        """Return the keys of what is at a place, which change when the data do."""

    @abstractmethod
    def records(self, source: Source, keys: Keys) -> Iterator[Record]:
        """Yield the records of a source, with the columns that the keys can lead to."""

    def examples(self, split: Split) -> Sequence[Example]:
        """Return one example per record of the split.

        The uid is the number of the record within its place, counted from 0; a record that repeats the question and
        the answer of an earlier one has that one's uid. Files are read once, and again when they have changed.
        """
        place, part = self._origin(split)
        if place is None:
            return []
        found = parsed(self, place)
        if split != "train" and part is None and self.train is not None:
            warn_of_overlap(self, self.train, place)
        return list(found.examples) if part is None else part_of(self, place, part)

    def prepare(self, splits: Sequence[Split]) -> None:
        """Read the splits, so that their faults are found before any model is loaded."""
        for split in splits:
            self.examples(split)

    def traits(self, response: str) -> Mapping[str, float]:
        """None."""
        return {}

    @property
    def layout(self) -> Layout:
        """How a record becomes an example."""
        asked = tuple(self.prompt.columns) or (self.prompt_key,)
        keys = Keys(asked, self.answer_key, self.demonstration_key)
        return Layout(type(self).__name__, self.prompt, keys, self.answer_form)

    def _origin(self, split: Split) -> tuple[str | None, Split | None]:
        """The place of a split, and which part of it where shares divide it."""
        held_out = bool(self.validation_share or self.test_share)
        if split == "train":
            return self.train, "train" if held_out else None
        if getattr(self, split) is not None:
            return getattr(self, split), None
        if getattr(self, f"{split}_share"):
            return self.train, split
        return self._origin("validation") if split == "test" else (None, None)
