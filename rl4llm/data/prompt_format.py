"""`PromptFormat`: how the columns of a record become the prompt that the policy reads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rl4llm.checks import UsageError
from rl4llm.data.columns import MISSING, column, kind, listed
from rl4llm.data.prompts import Chat
from rl4llm.data.task import Prompt

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.|]*)\}")
_OURS = ("add_generation_prompt", "chat_template", "conversation", "return_dict", "return_tensors", "tokenize")


class Shot(NamedTuple):
    """A solved example in front of every prompt."""

    question: str
    response: str


@dataclass(frozen=True)
class PromptFormat:
    """How a question becomes a prompt: template, chat or raw text, system prompt and few-shot examples.

    A text becomes a raw prompt, for a base model, or the message of a user, for the tokenizer's chat template.

    Args:
        template: Text with the names of columns in braces, such as "Question: {question} Answer:"; a path such as
            {extra_info.question} reaches into nested columns, and doubled braces are literal ones. None: the prompt
            column alone. Braces within the data are left as they are.
        chat: True: a text becomes a user's message. False: a chat becomes a raw text, its messages separated by blank
            lines. None: as the data have it.
        system: System prompt, the first message of every chat; it replaces one that the data have.
        chat_options: What the tokenizer's chat template receives by name, such as {enable_thinking: false}.
        few_shot: Solved examples in front of every prompt: a list of objects with the columns of the data, or a file
            of them. The response is the demonstration column, else the answer column as it stands. Prompts that are
            among them are left out of every split.
    """

    template: str | None = None
    chat: bool | None = None
    system: str | None = None
    chat_options: dict[str, Any] | None = None
    few_shot: list[dict[str, Any]] | str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and not self.columns:
            raise UsageError(
                f"PromptFormat: template={self.template!r} names no column; write the name of one in braces, such as "
                "{question}."
            )
        for name in ("system", "chat_options"):
            if self.chat is False and getattr(self, name) is not None:
                raise UsageError(f"PromptFormat: {name} is given and chat=False; {name} is for chats, so set one only.")
        taken = sorted(set(self.chat_options or {}) & set(_OURS))
        if taken:
            raise UsageError(f"PromptFormat: chat_options sets {listed(taken)}, which the library sets; leave it out.")

    @property
    def columns(self) -> list[str]:
        """The columns that the template names, in their order."""
        return [name for name in _PLACE.findall(self.template or "") if name]

    def filled(self, record: Mapping[str, Any], where: str) -> str:
        """Return the template with the values of a record in its places.

        Raises:
            UsageError: If a column is missing, or holds neither a text nor a number.
        """
        return _PLACE.sub(lambda place: _value(record, place, where), self.template or "")

    def prompt(self, question: Prompt, shots: Sequence[Shot], where: str) -> Prompt:
        """Return the prompt for a question: a text, or a chat.

        Raises:
            UsageError: If a system prompt or options are given for a raw text.
        """
        if isinstance(question, str) and self.chat is not True:
            return self._raw(question, shots, where)
        if isinstance(question, str):
            question = [{"role": "user", "content": question}]
        if self.chat is False:
            return "".join(map(_solved, shots)) + "\n\n".join(message["content"] for message in question)
        return self._chat(question, shots)

    def _raw(self, question: str, shots: Sequence[Shot], where: str) -> str:
        for name in ("system", "chat_options"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"{where} is a text and {name} is for chats; set prompt.chat=true, or write it in prompt.template."
                )
        return "".join(map(_solved, shots)) + question

    def _chat(self, question: list[dict[str, str]], shots: Sequence[Shot]) -> list[dict[str, str]]:
        system, rest = (question[:1], question[1:]) if question[0]["role"] == "system" else ([], question)
        if self.system is not None:
            system = [{"role": "system", "content": self.system}]
        solved = [message for shot in shots for message in _messages(shot)]
        messages = [*system, *solved, *rest]
        return Chat(messages, self.chat_options) if self.chat_options else messages


def _value(record: Mapping[str, Any], place: re.Match[str], where: str) -> str:
    name = place[1]
    if name is None:
        return place[0][0]
    value = column(record, name)
    if value is MISSING:
        raise UsageError(f"{where} has no column '{name}', which the template names; it has {listed(record)}.")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where}: '{name}' is {kind(value)}; a template takes texts and numbers.")
    return str(value)


def _solved(shot: Shot) -> str:
    space = "" if shot.question[-1:].isspace() else " "
    return f"{shot.question}{space}{shot.response}\n\n"


def _messages(shot: Shot) -> list[dict[str, str]]:
    return [{"role": "user", "content": shot.question}, {"role": "assistant", "content": shot.response}]
