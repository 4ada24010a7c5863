"""Where the answer stands in a column: the published forms of reference answers."""

import re
from typing import Any, Literal

from rl4llm.checks import UsageError
from rl4llm.data.columns import kind
from rl4llm.rewards.answers import after_hashes, last_boxed

AnswerForm = Literal["whole", "hashes", "boxed", "list"]


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
    found = last_boxed(text) if form == "boxed" else after_hashes(text)
    if found is not None and form == "hashes":
        found = re.sub(r"(?<=\d),(?=\d{3})", "", found)
    return (found or "").strip() or None
