"""From what was composed to the papers that it comes from, as BibTeX."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, isclass, isfunction, signature
from typing import Any

from torch import Tensor, nn

from rl4llm import __version__
from rl4llm.citations.papers import PAPERS

_LIBRARY = f"""@software{{rl4llm,
  title = {{rl4llm}},
  author = {{{{The rl4llm authors}}}},
  year = {{2026}},
  version = {{{__version__}}},
}}
"""


def citations(recipe: Any) -> str:
    """BibTeX entries of the library and of every paper that a composition uses.

    What counts as used is the `paper` of each part and, through fields, slots and attributes, of the parts inside it.
    A recipe function cites the paper that the docstring of its file names as `(arXiv:ID)`, and the default value of
    every slot; the slots that it does not name but hands on are those of `compose`, or of the module that it returns.

    An aggregator is left out beside an objective that has one loss per response, because it then only takes the
    mean over responses.

    Args:
        recipe: A module such as `PolicyGradient`, a recipe function, a component, or any iterable of these.

    Returns:
        The library's own entry, then one a paper, by arXiv number. A paper that the table lacks has its number only.

    Example:
        >>> from rl4llm.critics import BetaTracker
        >>> print(citations(BetaTracker()).partition("@misc")[2], end="")
        {arXiv:2509.13232,
          title = {Single-stream Policy Optimization},
          author = {Zhongwen Xu and Zihan Ding},
          year = {2025},
          eprint = {2509.13232},
          archivePrefix = {arXiv},
        }
    """
    return "\n".join([_LIBRARY, *map(_entry, paper_ids(recipe))])


def paper_ids(recipe: Any) -> list[str]:
    """ArXiv numbers of what was composed, sorted, each once. Arguments as in [citations][].

    Example:
        >>> from rl4llm.gates import AgreementGate, HighEntropy
        >>> paper_ids(AgreementGate() & ~HighEntropy())
        ['2506.01939', '2510.01656']
    """
    several = isinstance(recipe, Iterable) and not isinstance(recipe, str | Tensor | nn.Module | Mapping)
    roots = list(recipe) if several else [recipe]
    own = [_own_papers(root) for root in roots if isfunction(root)]
    parts = _parts([_defaults(root) if isfunction(root) else root for root in roots], {})
    papers = [*own, *(getattr(part, "paper", None) for part in parts)]
    return sorted({number.strip() for paper in papers if isinstance(paper, str) for number in paper.split(",")} - {""})


def _own_papers(recipe: Callable[..., Any]) -> str:
    """The numbers that the docstring of the recipe's file names as its source."""
    found = re.search(r"\(arXiv:(\d{4}\.\d{4,5}(?:, \d{4}\.\d{4,5})*)\)", recipe.__globals__.get("__doc__") or "")
    return found.group(1) if found else ""


def _defaults(recipe: Callable[..., Any]) -> dict[str, Any]:
    """The value of every slot that has a default, with those of what takes the options where they are handed on."""
    parameters = signature(recipe).parameters
    hands_on = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    taker = _taker(recipe) if hands_on else None
    known = parameters if taker is None else {**signature(taker).parameters, **parameters}
    return {name: p.default for name, p in known.items() if p.default is not Parameter.empty}


def _taker(recipe: Callable[..., Any]) -> Callable[..., Any] | None:
    """What a recipe hands its options to: the function in its body that returns the same module, or its class."""
    returned = recipe.__annotations__.get("return")
    used = [recipe.__globals__.get(name) for name in recipe.__code__.co_names]
    composing = [one for one in used if isfunction(one) and one.__annotations__.get("return") is returned]
    return composing[0] if composing else returned if isclass(returned) else None


def _parts(thing: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The thing and whatever it is made of, each once; `seen` also keeps them alive, so that no id is used again."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    yield thing
    for inner in _inner(thing):
        yield from _parts(inner, seen)


def _inner(thing: Any) -> list[Any]:
    slots = _slots(thing)
    if getattr(slots.get("objective"), "level", "token") == "response":
        slots = {name: part for name, part in slots.items() if name != "aggregator"}
    return list(thing) if isinstance(thing, list | tuple | set | frozenset) else list(slots.values())


def _slots(thing: Any) -> Mapping[Any, Any]:
    if isinstance(thing, nn.Module):
        return vars(thing)
    if is_dataclass(thing) and not isclass(thing):
        return {field.name: getattr(thing, field.name, None) for field in fields(thing)}
    return thing if isinstance(thing, Mapping) else {}


def _entry(number: str) -> str:
    author, title = PAPERS.get(number, ("", ""))
    known = {"title": title, "author": author, "year": f"20{number[:2]}" if title else ""}
    lines = {**known, "eprint": number, "archivePrefix": "arXiv"}
    body = "".join(f"  {name} = {{{value}}},\n" for name, value in lines.items() if value)
    return f"@misc{{arXiv:{number},\n{body}}}\n"
