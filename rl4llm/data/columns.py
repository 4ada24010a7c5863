"""Columns of a record: found by name or by a path into nested objects."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rl4llm.checks import UsageError

MISSING: Any = object()


class Keys(NamedTuple):
    """The keys of the columns that a task reads.

    Args:
        prompt: Those of the prompt, all of which are needed.
        answer: That of the answer; None if there is none.
        demonstration: That of a response, which the data need not have.
    """

    prompt: tuple[str, ...]
    answer: str | None
    demonstration: str

    def among(self, present: Sequence[str], where: str) -> list[str]:
        """Return those of the present columns that the keys can lead to, so that a reader may skip the others.

        Raises:
            UsageError: If the column of the prompt or of the answer is not there.
        """
        for key, field in [*((key, "prompt") for key in self.prompt), (self.answer, "answer")]:
            if key is not None and not _leading(key, present):
                raise UsageError(
                    f"{where} has no field '{key}'; name the {field}'s field with {field}_key"
                    f"{_or_template(field)}. It has {listed(present)}."
                )
        keys = (*self.prompt, self.answer, self.demonstration)
        wanted = {name for key in keys if key is not None for name in _leading(key, present)}
        return [name for name in present if name in wanted]


def _or_template(field: str) -> str:
    return " or prompt.template" if field == "prompt" else ", or set answer_key=null if the reward needs none"


def _leading(key: str, present: Sequence[str]) -> set[str]:
    """The present columns that a key can lead to."""
    return {name for one in (key, *key.split("|")) for name in (one, one.partition(".")[0]) if name in present}


def column(record: Mapping[str, Any], key: str) -> Any:
    """Return the value of a column, or `MISSING`.

    A key is the name of a column, or a path into nested objects; several keys separated by `|` stand for the first
    that the record has.

    Example:
        >>> column({"extra_info": {"answer": 42}}, "extra_info.answer")
        42
        >>> column({"Problem": "1+1"}, "problem|Problem")
        '1+1'
    """
    if key in record:
        return record[key]
    found = (_nested(record, one) for one in key.split("|"))
    return next((value for value in found if value is not MISSING), MISSING)


def _nested(record: Mapping[str, Any], key: str) -> Any:
    if key in record:
        return record[key]
    head, dot, rest = key.partition(".")
    inner = record.get(head, MISSING) if dot else MISSING
    return _nested(inner, rest) if isinstance(inner, Mapping) else MISSING


def listed(names: Iterable[str]) -> str:
    """Return column names for a message, at most a dozen."""
    names = list(names)
    return ", ".join(repr(name) for name in names[:12]) + (", ..." if len(names) > 12 else "")


def kind(value: Any) -> str:
    """Name the kind of a value of a record, for a message."""
    names = {bool: "a truth value", str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
