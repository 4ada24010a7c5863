"""Responses as text, for a console of 80 columns and as Markdown; characters that control a terminal are escaped."""

import unicodedata
from collections.abc import Mapping, Sequence

from rl4llm.algorithms.held_out import Sample
from rl4llm.data.task import Prompt
from rl4llm.wording import counted

_COLUMNS, _LABEL = 80, 14
_LONGEST = 20_000  # characters of one text in a logger
_EMOJI = chr(0xFE0F)  # shows the character before it as a picture
Shown = Mapping[str, Sample]


def visible(text: str, *, keep: str = "", encoding: str = "utf-8") -> str:
    r"""Escape characters that move the cursor, change colours or direction, or that the encoding lacks.

    Args:
        text: Any text.
        keep: Characters that are never escaped.
        encoding: Encoding of the place where it is shown.

    Example:
        >>> print(visible("a\x1b[31m\n" + chr(0x202E), keep="\n"))
        a\x1b[31m
        \u202e
    """
    shown = "".join(ascii(x)[1:-1] if _controls(x) and x not in keep else x for x in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _controls(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind[0] == "C" or kind in ("Zl", "Zp")


def columns(character: str) -> int:
    """Return how many columns of a terminal a visible character takes: 0, 1 or 2."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return int(character == _EMOJI)  # it widens the character before it
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int) -> list[str]:
    """Cut a text into lines of at most so many columns; wide characters are never cut.

    Example:
        >>> wrapped("ab漢字", 3)
        ['ab', '漢', '字']
    """
    lines, room = [""], width
    for character in text:
        size = columns(character)
        if size > room:
            lines.append("")
            room = width
        lines[-1] += character
        room -= size
    return lines


def shortened(text: str, width: int, lines: int) -> list[str]:
    """Cut a text into at most so many lines of at most so many columns: its beginning and its end.

    Args:
        text: What is visible of a text.
        width: Columns of a line, at least 34.
        lines: Number of lines, at least 3: the last holds the end, the one before it how much is left out.
    """
    found = wrapped(text[: width * lines], width)
    if len(text) <= width * lines and len(found) <= lines:
        return found
    head, tail = found[: lines - 2], wrapped(text[::-1][:width], width)[0][::-1]
    left_out = len(text) - sum(map(len, head)) - len(tail)
    return [*head, f"[... {left_out:,} characters ...]", tail]


def prompt_text(prompt: Prompt) -> str:
    """Return a prompt as one text; each message of a chat begins with its role."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def as_text(title: str, shown: Shown, *, encoding: str = "utf-8", lines: int = 4) -> str:
    """Return a table of responses for a console of 80 columns.

    Args:
        title: First line.
        shown: Responses by what they are examples of.
        encoding: Encoding of the console.
        lines: Most lines of one prompt or response.
    """
    rows = [title]
    for label, sample in shown.items():
        rows.append(f"  {label:8}{_numbers(sample)}")
        for name, text in _texts(sample):
            parts = shortened(visible(text, encoding=encoding), _COLUMNS - _LABEL, lines)
            rows += [f"    {name if index == 0 else '':{_LABEL - 4}}{part}" for index, part in enumerate(parts)]
    return "\n".join(rows)


def as_markdown(shown: Shown) -> str:
    """Return the same responses in full, as Markdown that shows every text as it is."""
    blocks = []
    for label, sample in shown.items():
        blocks.append(f"**{label}**: {_numbers(sample)}")
        for name, text in _texts(sample):
            body = visible(text[:_LONGEST], keep="\n").replace("\n", "\n    ")
            blocks += [name, f"    {body}"]
    return "\n\n".join(blocks)


def _numbers(sample: Sample) -> str:
    score = f"score {sample.score:.3f}" if sample.scored else "could not be scored"
    return f"{score}, {counted(sample.length, 'token')}{', truncated' if sample.truncated else ''}"


def _texts(sample: Sample) -> Sequence[tuple[str, str]]:
    known = [] if sample.answer_text is None else [("expected", sample.answer_text)]
    return [("prompt", prompt_text(sample.prompt)), ("response", sample.response), *known]
