"""Where the answer stands in a column: the published forms of reference answers."""

import re
from typing import Any, Literal

from rl4llm.checks import UsageError
from rl4llm.data.columns import kind

AnswerForm = Literal["whole", "hashes", "boxed", "list"]

_BOXED = re.compile(r"\\f?boxed\s*\{")


def read_answer(value: Any, form: AnswerForm, where: str) -> Any:
    r"""Return the answer that a column holds.

    Args:
        value: What the column holds; None stays None.
        form: "whole": the value as it is. "hashes": the text after the last `####`, without the commas of thousands.
            "boxed": what the last `\boxed{...}` holds. "list": the texts of a list, joined by commas.
        where: Beginning of the message of an error.

    Raises:
        UsageError: If the value has not this form.

    Example:
        >>> read_answer("6 * 7 = 42 #### 1,042", "hashes", ""), read_answer(r"so \boxed{\frac{1}{2}}.", "boxed", "")
        ('1042', '\\frac{1}{2}')
    """
    if value is None or form == "whole":
        return value
    if form == "list":
        if not isinstance(value, list) or not value:
            raise UsageError(f"{where} is {kind(value)} or empty; answer_form='list' needs a list of texts.")
        return ", ".join(map(str, value))
    found = _found(value, form) if isinstance(value, str) else None
    if found is None:
        sign = "'####'" if form == "hashes" else r"'\boxed{...}'"
        raise UsageError(
            f"{where} holds no {sign} with an answer ({str(value)[-40:]!r}); answer_form='{form}' needs one. "
            "Set answer_form=whole if the column holds the answer alone."
        )
    return found


def _found(text: str, form: AnswerForm) -> str | None:
    if form == "hashes":
        _, sign, rest = text.rpartition("####")
        return re.sub(r"(?<=\d),(?=\d{3})", "", rest.strip()) or None if sign else None
    starts = list(_BOXED.finditer(text))
    return _braced(text, starts[-1].end()) if starts else None


def _braced(text: str, start: int) -> str | None:
    r"""The text from `start` to the brace that closes it; `\{` and `\}` are no braces."""
    depth, place = 1, start
    while place < len(text):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place].strip() or None
        place += 2 if text[place] == "\\" else 1
    return None
