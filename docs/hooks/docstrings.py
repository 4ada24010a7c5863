"""Sections of docstrings as the reference shows them: examples as code, references as a list with links."""

import re

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
REFERENCES = re.compile(r"(?<=^References:\n)(?:    .*\n?)+", re.MULTILINE)
PAPER = re.compile(r"\barXiv:(\d{4}\.\d{5})")


class Sections(griffe.Extension):
    """Rewrites the text of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **context: object) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """The docstring with the name that the parser knows for examples, and one list item per reference."""
    text = REFERENCES.sub(lambda found: re.sub(r"^    (?=\S)", "    - ", found[0], flags=re.MULTILINE), text)
    return PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", EXAMPLE.sub("Examples:", text))
