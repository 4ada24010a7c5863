"""Where a response, or the answer of an example, says its result."""

import re
from collections import deque
from typing import Any, Literal

Where = Literal["any", "boxed", "hashes", "last"]

# A sign counts only where it follows no operand; commas only where they group thousands.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+])?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?(?:\s?/\s?[0-9]+(?:\.[0-9]+)?)?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_BRACES = re.compile(r"\\boxed\s*\{|[{}]")
_SPACES = re.compile(r"\{,\}|\\[,!;:]")


def accepted_texts(answer: Any) -> list[str]:
    """Return the texts that an example accepts: a list holds alternatives, anything else is one answer.

    Raises:
        ValueError: If the example has no answer.
    """
    answers = list(answer) if isinstance(answer, list | tuple) else [answer]
    if not answers or any(one is None for one in answers):
        raise ValueError("the example has no answer to compare with")
    return [str(one) for one in answers]


def last_boxed(text: str) -> str | None:
    r"""Return what the last closed `\boxed{...}` of a text holds; None if there is none.

    Example:
        >>> last_boxed(r"\boxed{1}, so \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    place, answer = last_box(text)
    return answer if place >= 0 else None


def last_box(text: str) -> tuple[int, str]:
    r"""Return where the last closed `\boxed{...}` begins, −1 for none, and what it holds, in one pass over the braces.

    Example:
        >>> last_box(r"so \boxed{2}")
        (3, '2')
    """
    opened: list[re.Match[str]] = []
    last = -1, ""
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened:
            begin = opened.pop()
            if begin[0] != "{":
                last = max(last, (begin.start(), text[begin.end() : brace.start()]))
    return last


def after_hashes(text: str) -> str | None:
    """Return the rest of the line after the last `####`; None if there is none.

    Example:
        >>> after_hashes("2 + 2 is 4.\\n#### 4\\n")
        ' 4'
    """
    _, marker, rest = text.rpartition("####")
    return rest.partition("\n")[0] if marker else None


def result_in(text: str, where: Where) -> str | None:
    r"""Return the part of a text in which its result stands; None if it has no such part.

    Args:
        text: A response or an answer.
        where: `"boxed"`, the last `\boxed{...}`; `"hashes"`, the line after the last `####`; `"last"`, the whole text;
            `"any"`, the first of these that there is, with the marks before the whole text.
    """
    if where == "boxed":
        return last_boxed(text)
    if where == "hashes":
        return after_hashes(text)
    marked = (last_boxed(text), after_hashes(text)) if where == "any" else ()
    return next((part for part in marked if part is not None), text)


def last_number(text: str) -> float | None:
    r"""Return the last number of a text, also one with grouped digits, an exponent, or written as a fraction.

    Example:
        >>> last_number("between 3 and 1,234.5"), last_number(r"-\frac{3}{4}"), last_number("none")
        (1234.5, -0.75, None)
    """
    plain = _SPACES.sub("", _FRACTION.sub(r"\1/\2", text.replace("−", "-")))
    found = deque(_NUMBER.finditer(plain), maxlen=1)
    if not found:
        return None
    above, _, below = found[0][0].replace(",", "").partition("/")
    divisor = float(below) if below else 1.0
    return float(above) / divisor if divisor else None
