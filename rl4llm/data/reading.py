"""Reading prompts from a JSON-lines file: every fault is one line that says where it is."""

import json
from collections.abc import Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from rl4llm.checks import UsageError
from rl4llm.data.task import Example


class Fields(NamedTuple):
    """The names of the fields of a line."""

    prompt: str
    answer: str
    demonstration: str


class Source(NamedTuple):
    """A file as it stands: the key under which its parsed lines are kept."""

    path: str
    shown: str
    modified_ns: int
    size: int


def source(path: str) -> Source:
    """Return the key of a file, which changes when the file does."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise UsageError(f"JsonLines: {path} cannot be read ({error.strerror}); pass a readable file.") from None
    return Source(str(Path(path).resolve()), path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def read_examples(file: Source, fields: Fields) -> tuple[Example, ...]:
    """Return one example per line, and say once how many prompts are repeated and how many answers are missing.

    The uid is the line's number within its file, counted from 0. A line that repeats the prompt and the answer of an
    earlier line has that line's uid.
    """
    examples: list[Example] = []
    first: dict[tuple[Hashable, Hashable], int] = {}
    prompts: set[Hashable] = set()
    repeated = unanswered = 0
    for number, line in _lines(file):
        where = f"JsonLines: {file.shown} line {number + 1}"
        record = _record(line, where, fields)
        prompt, answer = record[fields.prompt], record.get(fields.answer)
        identity = _identity(prompt)
        repeated += identity in prompts
        unanswered += answer is None
        prompts.add(identity)
        uid = first.setdefault((identity, _identity(answer)), number)
        examples.append(Example(prompt, answer, uid, _demonstration(record, where, fields)))
    if not examples:
        raise UsageError(f"JsonLines: {file.shown} has no lines; write one JSON object with a prompt per line.")
    if repeated:
        _say(f"{repeated:,} of {len(examples):,} prompts of {file.shown} repeat an earlier line")
    if unanswered:
        _say(
            f"{unanswered:,} of {len(examples):,} lines of {file.shown} have no field '{fields.answer}'; "
            "their reward receives None as the answer"
        )
    return tuple(examples)


@lru_cache(maxsize=8)
def warn_of_overlap(train: Source, held_out: Source, fields: Fields) -> None:
    """Say once how many held-out prompts are training prompts too."""
    known = {_identity(example.prompt) for example in read_examples(train, fields)}
    examples = read_examples(held_out, fields)
    count = sum(_identity(example.prompt) in known for example in examples)
    if count:
        _say(f"{count:,} of {len(examples):,} prompts of {held_out.shown} are training prompts too ({train.shown})")


def _say(fact: str) -> None:
    rank_zero_warn(f"JsonLines: {fact}.")


def _lines(file: Source) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank. Only a newline ends a line: others, such as U+2028, may stand in a string."""
    try:
        with open(file.path, "rb") as stream:
            for number, line in enumerate(stream):
                text = _decoded(line, number, file.shown)
                if text.strip():
                    yield number, text
    except OSError as error:
        raise UsageError(f"JsonLines: {file.shown} cannot be read ({error.strerror}); pass a readable file.") from None


def _decoded(line: bytes, number: int, shown: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise UsageError(
            f"JsonLines: {shown} line {number + 1} is not UTF-8 text (byte 0x{byte:02x}); "
            "write one JSON object per line, encoded in UTF-8 and not compressed."
        ) from None


def _record(line: str, where: str, fields: Fields) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).splitlines()[0]
        raise UsageError(f"{where} is not JSON ({reason}); write one object per line.") from None
    if not isinstance(record, dict):
        raise UsageError(f"{where} is {_kind(record)}; write one object per line.")
    if fields.prompt not in record:
        raise UsageError(f"{where} has no field '{fields.prompt}'; name the prompt's field with prompt_key.")
    check_prompt(record[fields.prompt], f"{where}: '{fields.prompt}'")
    return record


def check_prompt(prompt: Any, where: str) -> None:
    """Raise unless the prompt is a text or a chat, and not empty; `where` begins the message."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UsageError(f"{where} is an empty text; write a prompt or leave the example out.")
        _check_encodable(prompt, where)
    elif isinstance(prompt, list):
        if not prompt:
            raise UsageError(f"{where} is an empty chat; write at least one message.")
        for index, message in enumerate(prompt):
            _check_message(message, f"{where}, message {index + 1}")
    else:
        raise UsageError(f"{where} is {_kind(prompt)}; write a text or a list of chat messages.")


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise UsageError(f'{where} is {_kind(message)}; write {{"role": ..., "content": ...}}.')
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise UsageError(f"{where} has {_kind(message.get(key))} as its '{key}'; write a text.")
        _check_encodable(message[key], f"{where}, '{key}'")
    if not message["role"].strip():
        raise UsageError(f"{where} has an empty 'role'; write user, assistant or system.")


def _check_encodable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} holds half of a surrogate pair, which is no character; repair the text.") from None


def _demonstration(record: dict[str, Any], where: str, fields: Fields) -> str | None:
    demonstration = record.get(fields.demonstration)
    if demonstration is not None and not isinstance(demonstration, str):
        raise UsageError(f"{where}: '{fields.demonstration}' is {_kind(demonstration)}; write a text or leave it out.")
    return demonstration


def _identity(value: Any) -> Hashable:
    """The value itself where it is a text (by far the most are), else its kind and its JSON."""
    return value if isinstance(value, str) else (type(value), json.dumps(value, sort_keys=True))


def _kind(value: Any) -> str:
    names = {bool: "a truth value", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
