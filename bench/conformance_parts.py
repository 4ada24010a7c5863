"""A public function of a library as a part of the kit, and which of the laws it keeps.

A case is text: what is imported, and how the function is called with tensors of a batch. The same text makes the part
that is examined and the example that is printed, so what the page shows is what was run.
"""

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.critics import ValueLoss
from rl4llm.gates import Gate
from rl4llm.masked import keep
from rl4llm.objectives import Aggregator
from rl4llm.testing import ORACLES, Domain, from_kl, from_log_probs, from_scores, laws_of
from rl4llm.testing.domains import EVERYTHING
from rl4llm.testing.examination import unrounded
from rl4llm.testing.laws import DTYPE, Law
from rl4llm.testing.runner import broken, holds
from rl4llm.testing.views import cast, outputs

EXAMPLES = 60

# The names of the tensors in a call, by kind of function.
TAKES = {
    "advantages": "rewards values mask index",
    "policy loss": "old_log_probs log_probs advantages mask",
    "aggregation": "losses mask count",
    "KL estimate": "log_probs ref_log_probs",
    "value loss": "values old_values returns mask",
    "gate": "entropies mask",
}


@dataclass(frozen=True)
class Case:
    """A public function and what it promises.

    Args:
        library: Name of the library.
        name: Name of the function there.
        kind: A key of `TAKES`.
        setup: Imports, and configurations if the function takes one.
        call: The call; the names of its tensors are those of `TAKES`.
        declared: Properties for the kit, such as `{"compares": "group"}`.
        domain: Batches that it is made for.
        least: Tokens below which it refuses a batch, as functions do that divide by a variance.
        clean: Whether its trainer hands it rewards that are 0 at masked positions.
        silent: Laws that the library does not promise, and where it says so or why.
        part: A part of ours, instead of a call.
    """

    library: str
    name: str
    kind: str
    setup: str = ""
    call: str = ""
    declared: dict[str, Any] = field(default_factory=dict)
    domain: Domain = EVERYTHING
    silent: dict[str, str] = field(default_factory=dict)
    part: Any = None
    least: int = 0
    clean: bool = False


class Recorded:
    """The function of a case; it keeps the arguments of its last two calls that differ."""

    def __init__(self, case: Case) -> None:
        self.names = [name for name in TAKES[case.kind].split() if re.search(rf"\b{name}\b", case.call)]
        self.space: dict[str, Any] = {"torch": torch}
        exec(case.setup, self.space)
        self.function = eval(f"lambda {', '.join(self.names)}: {case.call}", self.space)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **tensors: Any) -> Tensor:
        given = {name: tensors[name] for name in self.names}
        self.calls = [*self.calls, {name: _copied(x) for name, x in given.items()}][-2:]
        return self.function(**given)


def _copied(x: Any) -> Any:
    return x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x


def part_of(case: Case, function: Recorded) -> Any:
    """Return the part that the laws are run on."""
    return case.part if case.part is not None else PARTS[case.kind](case, function)


def _estimator(case: Case, function: Recorded) -> Any:
    def given(rewards: Tensor, values: Tensor, mask: Tensor, index: Any) -> Tensor:
        if mask.sum() < case.least:
            return torch.zeros_like(rewards)
        rewards = keep(rewards, mask.bool()) if case.clean else rewards
        result = function(rewards=rewards, values=values, mask=mask, index=index)
        return keep(result, mask.bool())  # losses mask again

    part = from_scores(given, order="rewards values mask index")
    return type(part)(given, part.takes, {}, {"smallest_group": 2, **case.declared})


def _objective(case: Case, function: Recorded) -> Any:
    """Return a policy loss, asked for one response after another: most libraries give one number per call."""

    def given(old_log_probs: Tensor, log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(-1, keepdim=True).clamp(min=1)
        own = (keep(advantages, mask.bool()).sum(-1, keepdim=True) / count).expand_as(mask)
        fields = {"old_log_probs": old_log_probs, "log_probs": log_probs, "advantages": own, "mask": mask}
        rows = [function(**{name: x[i : i + 1] for name, x in fields.items()}) for i in range(len(mask))]
        return torch.stack(rows)

    part = from_log_probs(given)
    declared = {"level": "response", "is_policy_gradient": True, **case.declared}
    return type(part)(given, part.takes, {}, declared)


def _penalty(case: Case, function: Recorded) -> Any:
    return from_kl(
        lambda log_probs, ref_log_probs: function(log_probs=log_probs, ref_log_probs=ref_log_probs), **case.declared
    )


@dataclass(frozen=True, eq=False)
class Aggregation(Aggregator):
    """An aggregation whose divisor is handed to it: the tokens or the responses of the whole batch."""

    case: Case
    function: Recorded

    def count(self, mask: Tensor) -> Tensor:
        return mask.sum() if self.case.declared["count"] == "tokens" else mask.any(-1).sum()

    def __call__(self, per_token: Tensor, mask: Tensor, *, normalizer: Any = None) -> Tensor:
        count = self.count(mask) if normalizer is None else normalizer
        return self.function(losses=per_token, mask=mask.to(per_token.dtype), count=count)


@dataclass(frozen=True, eq=False)
class RowwiseValueLoss(ValueLoss):
    """A value loss, asked for one response after another."""

    case: Case
    function: Recorded
    reads = ("values", "returns")

    def __call__(self, values: Tensor, batch: RolloutBatch) -> Tensor:
        old, returns = self.take(batch)
        fields = {"values": values, "old_values": old, "returns": returns, "mask": batch.response_mask.to(values.dtype)}
        rows = [self.function(**{name: x[i : i + 1] for name, x in fields.items()}) for i in range(len(batch))]
        return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class Filter(Gate):
    """A mask of tokens by entropy."""

    case: Case
    function: Recorded
    reads = ("entropies",)

    def __call__(self, batch: RolloutBatch) -> Tensor:
        (entropies,) = self.take(batch)
        return self.function(entropies=entropies, mask=batch.response_mask)


PARTS: dict[str, Callable[[Case, Recorded], Any]] = {
    "advantages": _estimator,
    "policy loss": _objective,
    "aggregation": Aggregation,
    "KL estimate": _penalty,
    "value loss": RowwiseValueLoss,
    "gate": Filter,
}


def usual(law: Law) -> Law:
    """Return the law as it is asked of other libraries: float32 may be rounded to, and bfloat16 is not given."""
    return replace(law, test=_dtype_kept) if law.name == DTYPE.name else unrounded(law)


def _dtype_kept(part: Any, batch: RolloutBatch, random: Any) -> None:
    for dtype in (torch.float32, torch.float64):
        for result in outputs(part, cast(batch, dtype)):
            assert result.dtype in (dtype, torch.bool), f"{dtype} in, {result.dtype} out"


OUTSIDE = {
    "rows": "responses without tokens are outside of its domain",
    "masks": "holes and padding on the left are outside of its domain",
    "scores": "missing scores, which reach it as rewards of 0, are outside of its domain",
    "groups": "groups of one and equal scores are outside of its domain",
    "padding": "NaN and infinity at masked positions are outside of its domain",
}


def asked(part: Any, law: Law, case: Case) -> bool:
    """Return whether the law says anything about the part, beyond what its adapter makes true."""
    by_row = case.part is None and case.kind in ("policy loss", "value loss")
    declared = getattr(part, "invariances", ())
    scales = [part.update_scale(size) for size in (2, 3)] if hasattr(part, "update_scale") else []
    silent = {
        "what is missing is named": case.part is None,
        "any cut into microbatches and ranks gives the same update": by_row or case.kind == "KL estimate",
        "a loss for each token or response, as declared": by_row,
        "equals its slow reference": type(part) not in ORACLES,
        "the gradient is that of the slow reference": case.part is None,
        "ties are silent": "shift" not in declared,
        "shift invariance as declared": "shift" not in declared,
        "scale invariance as declared": not {"scale", "homogeneous"} & set(declared),
        "the expected update is as declared": scales == [None, None],
        "an advantage depends on its response or group only": getattr(part, "compares", "") == "batch",
        "the policy gradient while the policy has not moved": not getattr(part, "is_policy_gradient", True),
        "no advantage, no gradient": not getattr(part, "is_policy_gradient", True),
    }
    return not silent.get(law.name, False)


def examine_case(case: Case) -> dict[str, Any]:
    """Return the status of every law that is asked, with what was seen where one is not kept."""
    function = Recorded(case) if case.part is None else None
    part = part_of(case, function)  # type: ignore[arg-type]
    examined = [law if case.part is not None else usual(law) for law in laws_of(part)]
    laws = {law.name: _status(part, law, case, function) for law in examined if asked(part, law, case)}
    return {
        "library": case.library,
        "function": case.name,
        "kind": case.kind,
        "domain": _narrowed(case.domain),
        "laws": laws,
    }


def _narrowed(domain: Domain) -> list[str]:
    return [f"{name}={value}" for name, value in vars(domain).items() if value != "any"]


def _status(part: Any, law: Law, case: Case, function: Recorded | None) -> dict[str, Any]:
    inside = law.about is None or getattr(case.domain, law.about) == "any"
    domain = case.domain if inside else replace(case.domain, **{law.about: "any"})
    if holds(part, law, EXAMPLES, domain):
        return {"status": "kept"}
    why = case.silent.get(law.name, "") if inside else OUTSIDE[law.about]
    status = "not promised" if why else "broken"
    return {"status": status, "why": why, **_seen(part, law, case, function, domain)}


def _seen(part: Any, law: Law, case: Case, function: Recorded | None, domain: Domain) -> dict[str, Any]:
    """Return what breaks the law on a small batch, and the call as a block of Python with what it prints."""
    found = broken(part, law, examples=EXAMPLES, domain=domain)
    assert found is not None
    seen = {"seen": found.reason}
    if function is not None:
        block = _block(case, function)
        seen["example"] = block if len(block) < 3000 else ""
    return seen


def _block(case: Case, function: Recorded) -> str:
    """Return the last calls as Python that runs by itself, each followed by what it prints."""
    lines = ["import torch", *case.setup.strip().splitlines(), ""]
    space: dict[str, Any] = {}
    exec("\n".join(lines), space)
    for code in dict.fromkeys(_code(case, call) for call in function.calls):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, space)
            except Exception as error:
                print(f"raises {type(error).__name__}: {error}")
        lines += [code, *(f"# {line}" for line in printed.getvalue().splitlines())]
    return "\n".join(lines)


def _code(case: Case, call: dict[str, Any]) -> str:
    """Return one call as Python, which prints the result and every gradient that is asked for."""
    lines = [f"{name} = {_source(x)}" for name, x in call.items()]
    leaves = [name for name, x in call.items() if isinstance(x, Tensor) and x.requires_grad]
    if not leaves:
        return "\n".join([*lines, f"print({case.call})"])
    gradients = ", ".join(f"{name}.grad" for name in leaves)
    return "\n".join(
        [*lines, f"result = {case.call}", "print(result)", "result.sum().backward()", f"print({gradients})"]
    )


def _source(x: Any) -> str:
    if not isinstance(x, Tensor):
        return f"torch.tensor({x.tolist()}).numpy()"
    numbers = str(x.tolist()).replace("nan", 'float("nan")').replace("inf", 'float("inf")')
    dtype = f", dtype={x.dtype}" if x.is_floating_point() else ""
    return f"torch.tensor({numbers}{dtype}{', requires_grad=True' if x.requires_grad else ''})"
