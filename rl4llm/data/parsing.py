"""From records to examples: columns are found, prompts are written, repetitions are counted, parts are hashed."""

from collections.abc import Hashable, Iterator
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from lightning.pytorch.utilities import rank_zero_warn

from rl4llm.checks import UsageError
from rl4llm.data.columns import Keys
from rl4llm.data.json_records import Record
from rl4llm.data.prompts import fingerprint, identity
from rl4llm.data.record_examples import Layout, read_shots, record_example
from rl4llm.data.sources import Source
from rl4llm.data.splitting import split_of
from rl4llm.data.task import Example, Split


@runtime_checkable
class _Task(Protocol):
    """What is read of a [RecordTask][rl4llm.data.record_task.RecordTask], which reads its examples here."""

    @property
    def layout(self) -> Layout: ...
    @property
    def answer_key(self) -> str | None: ...
    @property
    def repeats(self) -> str: ...
    @property
    def validation_share(self) -> float: ...
    @property
    def test_share(self) -> float: ...

    unit: ClassVar[str]

    def sources(self, place: str) -> tuple[Source, ...]: ...
    def records(self, source: Source, keys: Keys) -> Iterator[Record]: ...


class Parsed(NamedTuple):
    """The examples of a place, and a fingerprint of each one's question."""

    examples: tuple[Example, ...]
    fingerprints: tuple[bytes, ...]


class _ByValue:
    """A task as a key: all of its fields count but the reward, which has no part in the reading."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        key: Any = task
        values = [(field.name, getattr(task, field.name)) for field in fields(key) if field.name != "reward"]
        self.text = f"{type(task).__qualname__} {values!r}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByValue) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def parsed(task: _Task, place: str) -> Parsed:
    """Return the examples of a place, and say once how many repeat a prompt, lack an answer or are few-shot examples.

    Raises:
        UsageError: At the first fault, or if no example is left.
    """
    return _parsed(_ByValue(task), place, task.sources(place))


@lru_cache(maxsize=8)
def _parsed(key: _ByValue, place: str, sources: tuple[Source, ...]) -> Parsed:
    task = key.task
    layout = task.layout
    shots = read_shots(layout)
    examples: list[Example] = []
    marks: list[bytes] = []
    first: dict[tuple[Hashable, Hashable], int] = {}
    prompts: set[Hashable] = set()
    repeated = shown = 0
    for record in _numbered(task, sources):
        example, raw = record_example(layout, record, shots)
        mark, same = fingerprint(raw), identity(raw)
        if mark in shots.fingerprints:
            shown += 1
            continue
        repeated += same in prompts
        if task.repeats == "drop" and same in prompts:
            continue
        prompts.add(same)
        uid = first.setdefault((same, identity(example.answer)), example.uid)
        examples.append(example if uid == example.uid else replace(example, uid=uid))
        marks.append(mark)
    _say(task, place, examples, repeated, shown)
    return Parsed(tuple(examples), tuple(marks))


def _say(task: _Task, place: str, examples: list[Example], repeated: int, shown: int) -> None:
    """Refuse a place without prompts or answers, and say what can be used but is probably not meant."""
    count, unanswered = len(examples), sum(example.answer is None for example in examples)
    if shown:
        _warn(task, f"{shown:,} prompts of {place} are few-shot examples and left out")
    if not count:
        remedy = "write one JSON object with a prompt per line" if task.unit == "line" else "bring some with prompts"
        raise UsageError(f"{type(task).__name__}: {place} has no {task.unit}s; {remedy}.")
    if repeated and task.repeats == "drop":
        _warn(
            task,
            f"{repeated:,} of {count + repeated:,} prompts of {place} repeat an earlier {task.unit} and are dropped",
        )
    elif repeated:
        _warn(task, f"{repeated:,} of {count:,} prompts of {place} repeat an earlier {task.unit}")
    if task.answer_key is None or not unanswered:
        return
    if unanswered == count:
        raise UsageError(
            f"{type(task).__name__}: no {task.unit} of {place} has the field '{task.answer_key}'; name the answer's "
            "field with answer_key, or set answer_key=null if the reward needs none."
        )
    _warn(
        task,
        f"{unanswered:,} of {count:,} {task.unit}s of {place} have no field '{task.answer_key}'; "
        "their reward receives None as the answer",
    )


def _warn(task: _Task, fact: str) -> None:
    rank_zero_warn(f"{type(task).__name__}: {fact}.")


def _numbered(task: _Task, sources: tuple[Source, ...]) -> Iterator[Record]:
    """The records of all sources, numbered through."""
    keys, offset = task.layout.keys, 0
    for source in sources:
        last = -1
        for record in task.records(source, keys):
            last = record.number
            yield record._replace(number=offset + last)
        offset += last + 1


def part_of(task: _Task, place: str, part: Split) -> list[Example]:
    """Return the examples of a place that belong to a split by the hash of their question.

    Raises:
        UsageError: If there are none.
    """
    found = parsed(task, place)
    pairs = zip(found.examples, found.fingerprints, strict=True)
    examples = [example for example, mark in pairs if split_of(mark, task.validation_share, task.test_share) == part]
    if not examples:
        raise UsageError(
            f"{type(task).__name__}: validation_share={task.validation_share} and test_share={task.test_share} of the "
            f"{len(found.examples):,} prompts of {place} leave the {part} split empty; change the shares, or "
            "bring more prompts."
        )
    return examples


def warn_of_overlap(task: _Task, train: str, held_out: str) -> None:
    """Say once how many held-out prompts are training prompts too."""
    _warn_of_overlap(_ByValue(task), train, held_out, task.sources(train), task.sources(held_out))


@lru_cache(maxsize=8)
def _warn_of_overlap(key: _ByValue, train: str, held_out: str, *sources: tuple[Source, ...]) -> None:
    known, others = set(parsed(key.task, train).fingerprints), parsed(key.task, held_out).fingerprints
    count = sum(mark in known for mark in others)
    if count:
        _warn(key.task, f"{count:,} of {len(others):,} prompts of {held_out} are training prompts too ({train})")
