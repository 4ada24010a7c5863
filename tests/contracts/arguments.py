"""Public functions of the library, and valid arguments for each, made from the axes and dtypes of its signature."""

import importlib
import inspect
import re

import torch

from rl4llm import critics, metrics

FAMILIES = ("advantages", "corrections", "critics", "gates", "objectives", "regularizers", "rewards", "metrics")
SIZES = {
    "batch": 2,
    "time": 3,
    "critic": 2,
    "segment": 3,
    "bin": 4,
    "group": 2,
    "axes": 3,
    "state": 3,
    "quantile": 3,
    "prompt": 2,
    "error": 3,
}
SIZES |= {"row": 2, "feature": 3, "width": 2, "vocab": 4, "top": 2, "listed": 2, "cells": 3, "place": 2}
OPTIONS = {
    "k": 2,
    "bins": 2,
    "width": 2,
    "noise": 1.0,
    "num_critics": 2,
    "critic": 0,
    "low": 0.5,
    "high": 2.0,
    "level": "token",
    "fraction": 0.2,
    "q": 0.5,
}
OPTIONS |= {"fit": critics.ridge_fit(torch.eye(3), torch.arange(3.0))}
OPTIONS |= {"states": critics.PolicyStates(torch.ones(2, 2, 2), torch.ones(2, 3, 2), torch.ones(2, 3))}
OPTIONS |= {"max_tokens": 6, "cache_tokens": 2, "delta_low": 0.1, "delta_high": 0.1, "score": 1.0, "divergence": 0.1}
OPTIONS |= {"answers": ["1", "1"], "correct": [True, False]}
OPTIONS |= {"measures": [metrics.Measure(torch.ones(3), torch.ones(3))], "means": torch.ones(3)}
OPTIONS |= {"pieces": [["a"] * 3] * 2, "loss": torch.zeros(()), "count": 1, "a": 0.5}
NUMBERS = {
    "scores": 1.0,
    "entropies": 1.0,
    "old_entropies": 1.0,
    "correct": 1,
    "responses": 2,
    "lengths": 3,
    "returns": 0.5,
    "alpha": 0.5,
    "beta": 0.5,
    "score": 0.5,
    "divergence": 0.5,
}


def functions(*modules):
    """Public functions of modules of the library, by name: those in `__all__` or, without one, those defined there."""
    found = {}
    for module in (importlib.import_module(f"rl4llm.{name}") for name in modules):
        own = [name for name, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__]
        names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
        found |= {name: x for name in names if inspect.isfunction(x := getattr(module, name))}
    return found


def axes_of(parameter):
    """The dtype and the axes that an annotation names; None where it is no tensor's."""
    text = getattr(parameter.annotation, "__name__", "") or str(parameter.annotation)
    text = text if "[Tensor" in text else str(parameter.annotation)
    found = re.search(r"(Float|Num|Int|Bool)\[Tensor, '([\w* ]+)'\]", text)
    return found and (found[1], [axis.lstrip("*") for axis in found[2].split()])


def arguments(function):
    """Something valid for every required argument, and for every tensor."""
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        found = axes_of(parameter)
        if found and all(axis in SIZES for axis in found[1]):
            dtype = {"Int": torch.long, "Bool": torch.bool}.get(found[0], torch.float64)
            number = NUMBERS.get(name, {"Int": 0, "Bool": 1}.get(found[0], -1.0))
            given[name] = torch.full([SIZES[axis] for axis in found[1]], number, dtype=dtype)
        elif parameter.default is parameter.empty:
            given[name] = OPTIONS[name]
    return given
