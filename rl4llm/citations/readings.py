"""What was read of a paper: the kinds of reading, and a method with what ours does differently."""

from typing import NamedTuple

PAPER, CODE, FORK, FRAMEWORK = "paper", "authors' code", "fork of the authors' code", "framework code"
RESTATED, ABSTRACT, NOTES, MEMORY = "restated in another paper", "abstract", "third-party notes", "nothing"

KINDS = {
    PAPER: "its own text",
    CODE: "the code of its authors",
    FORK: "a public copy of the code of its authors, which somebody else may have changed",
    FRAMEWORK: "code of frameworks that implement it",
    RESTATED: "its equations as other papers give them",
    ABSTRACT: "its abstract, and no more of its text",
    NOTES: "notes and implementations of people who have no part in it",
    MEMORY: "nothing was read for this library; the method is common knowledge",
}
"""What each kind of reading is."""


class Method(NamedTuple):
    """A method that the library implements.

    Attributes:
        numbers: ArXiv numbers of its papers; empty where there is none.
        name: What it is called.
        parts: The parts that come from it.
        recipe: The recipes that use it, with links.
        read: What was read of it, of `KINDS`.
        differs: What ours does differently, and why.
    """

    numbers: tuple[str, ...]
    name: str
    parts: str
    recipe: str
    read: tuple[str, ...]
    differs: str


class Plan(NamedTuple):
    """A method that is cited and not implemented.

    Attributes:
        number: ArXiv number of its paper.
        name: What it is called.
        read: What was read of it, of `KINDS`.
    """

    number: str
    name: str
    read: tuple[str, ...]
