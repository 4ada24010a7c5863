"""What a prompt may be: a text or a chat, and when two of them are the same."""

import json
from collections.abc import Hashable, Mapping
from hashlib import blake2b
from typing import Any

from rl4llm.checks import UsageError
from rl4llm.data.columns import kind


class Chat(list[dict[str, str]]):
    """A list of chat messages with options of its own for the tokenizer's chat template.

    It equals a plain list of the same messages.

    Args:
        messages: The messages.
        options: What the chat template receives by name, such as `enable_thinking`.

    Example:
        >>> Chat([{"role": "user", "content": "1+1"}], {"enable_thinking": False}).options
        {'enable_thinking': False}
    """

    def __init__(self, messages: list[dict[str, str]], options: Mapping[str, Any]) -> None:
        super().__init__(messages)
        self.options = options


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
        raise UsageError(f"{where} is {kind(prompt)}; write a text or a list of chat messages.")


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise UsageError(f'{where} is {kind(message)}; write {{"role": ..., "content": ...}}.')
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise UsageError(f"{where} has {kind(message.get(key))} as its '{key}'; write a text.")
        _check_encodable(message[key], f"{where}, '{key}'")
    if not message["role"].strip():
        raise UsageError(f"{where} has an empty 'role'; write user, assistant or system.")


def _check_encodable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} holds half of a surrogate pair, which is no character; repair the text.") from None


def identity(value: Any) -> Hashable:
    """Return the value itself where it is a text (by far the most are), else its kind and its JSON."""
    return value if isinstance(value, str) else (type(value), json.dumps(value, sort_keys=True, default=repr))


def fingerprint(question: Any) -> bytes:
    """Return a number of 64 bits, as bytes, that the words of a question determine and its white space does not.

    A chat counts as the contents of its messages. The number is the same in every process and in every version.

    Example:
        >>> fingerprint("1 + 1") == fingerprint(" 1 +  1") == fingerprint([{"role": "user", "content": "1 + 1"}])
        True
    """
    words = " ".join(_text(question).split())
    return blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _text(question: Any) -> str:
    if isinstance(question, str):
        return question
    if isinstance(question, list | tuple):
        return " ".join(_text(part.get("content", part) if isinstance(part, dict) else part) for part in question)
    return json.dumps(question, sort_keys=True, default=repr)
