"""From a record to an example: its question is found and written, its answer is read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rl4llm.checks import UsageError
from rl4llm.data.answers import AnswerForm, read_answer
from rl4llm.data.columns import MISSING, Keys, column, kind, listed
from rl4llm.data.files import file_records
from rl4llm.data.json_records import Record
from rl4llm.data.prompt_format import PromptFormat, Shot
from rl4llm.data.prompts import check_prompt, fingerprint
from rl4llm.data.sources import file_sources
from rl4llm.data.task import Example, Prompt


class Layout(NamedTuple):
    """How a record becomes an example.

    Args:
        name: Class of the task, with which messages begin.
        prompt: How the prompt is written.
        keys: The columns that are read.
        answer_form: Form of the answer column.
    """

    name: str
    prompt: PromptFormat
    keys: Keys
    answer_form: AnswerForm = "whole"


class Shots(NamedTuple):
    """Solved examples, and the fingerprints of their questions."""

    shots: tuple[Shot, ...]
    fingerprints: frozenset[bytes]


def record_example(layout: Layout, record: Record, shots: Shots) -> tuple[Example, Any]:
    """Return the example of a record, and its question as the data have it.

    Raises:
        UsageError: If a column is missing or holds something else than it should.
    """
    question, raw = _question(layout, record)
    key = layout.keys.answer
    answer = MISSING if key is None else column(record.columns, key)
    answer = read_answer(None if answer is MISSING else answer, layout.answer_form, f"{record.where}: '{key}'")
    prompt = layout.prompt.prompt(question, shots.shots, f"{record.where}: the prompt")
    return Example(prompt, answer, record.number, _demonstration(layout, record)), raw


def _question(layout: Layout, record: Record) -> tuple[Prompt, Any]:
    form, where = layout.prompt, record.where
    if form.template is None:
        key = layout.keys.prompt[0]
        question = column(record.columns, key)
        if question is MISSING:
            raise UsageError(
                f"{where} has no field '{key}'; name the prompt's field with prompt_key. It has "
                f"{listed(record.columns)}."
            )
        check_prompt(question, f"{where}: '{key}'")
        return question, question
    filled = form.filled(record.columns, where)
    raw = [column(record.columns, name) for name in form.columns]
    if not any(str(value).strip() for value in raw):
        raise UsageError(f"{where}: {listed(form.columns)} is an empty text; write a prompt or leave the example out.")
    check_prompt(filled, f"{where}: the filled template")
    return filled, raw[0] if len(raw) == 1 else raw


def _demonstration(layout: Layout, record: Record) -> str | None:
    key = layout.keys.demonstration
    demonstration = column(record.columns, key)
    if demonstration is MISSING or demonstration is None:
        return None
    if not isinstance(demonstration, str):
        raise UsageError(f"{record.where}: '{key}' is {kind(demonstration)}; write a text or leave it out.")
    return demonstration


def read_shots(layout: Layout) -> Shots:
    """Return the solved examples of a task.

    Raises:
        UsageError: If one of them has no question or no response.
    """
    given, name, keys = layout.prompt.few_shot, layout.name, layout.keys
    if given is None:
        return Shots((), frozenset())
    if isinstance(given, str):
        keys = Keys(keys.prompt, None, f"{keys.demonstration}|{keys.answer}")
        records = [record for source in file_sources(name, given) for record in file_records(source, keys)]
    else:
        records = [Record(i, f"{name}: few_shot example {i + 1}", one) for i, one in enumerate(given)]
    pairs = [_shot(layout, record) for record in records]
    return Shots(tuple(shot for shot, _ in pairs), frozenset(mark for _, mark in pairs))


def _shot(layout: Layout, record: Record) -> tuple[Shot, bytes]:
    question, raw = _question(layout, record)
    response = _first(record.columns, layout.keys.demonstration, layout.keys.answer)
    for what, value in (("question", question), ("response", response)):
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise UsageError(
                f"{record.where} needs a {what} as text, and has {kind(value)}; write it in the columns of the data."
            )
    return Shot(str(question), str(response)), fingerprint(raw)


def _first(columns: Mapping[str, Any], *keys: str | None) -> Any:
    """The value of the first column that is there."""
    found = (column(columns, key) for key in keys if key is not None)
    return next((value for value in found if value is not MISSING and value is not None), None)
