"""A batch, the responses of an engine and what a policy gives are refused in one line if a field is wrong."""

import inspect
import re
from dataclasses import MISSING, fields

import pytest
import torch

from rl4llm import corrections, objectives, regularizers
from rl4llm.axes import axes_of, dtype_of
from rl4llm.batch import AXES, PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.objectives import PolicyObjective, PPOClip
from rl4llm.regularizers import Constrained, EntropyBonus, KLPenalty, Regularizer
from rl4llm.roles import CONSTANTS
from rl4llm.rollouts.responses import Responses

SIZES = {"batch": 2, "time": 3, "prompt": 2, "critic": 2, "gate": 1, "top": 2}
MAKE = {
    "Float": lambda size: torch.full(size, -1.0),
    "Int": lambda size: torch.zeros(size, dtype=torch.long),
    "Bool": lambda size: torch.ones(size, dtype=torch.bool),
}
PARTS = [x for x in (*vars(objectives).values(), *vars(regularizers).values()) if inspect.isclass(x)]
PARTS = [x for x in PARTS if issubclass(x, PolicyObjective | Regularizer) and not inspect.isabstract(x)]
WRAPPERS = {
    objectives.EntropyRatioClip: lambda: objectives.EntropyRatioClip(PPOClip()),
    Constrained: lambda: Constrained(KLPenalty(), limit=1.0),
    objectives.DPPO: lambda: objectives.DPPO(divergence="topk_tv"),
}
PARTS = [WRAPPERS.get(part, part)() for part in PARTS]


def numbers(of):
    """Valid tensors for every field of a class."""
    annotated = [field for field in fields(of) if "Tensor" in str(field.type)]
    return {f.name: MAKE[dtype_of(f.type)]([SIZES[axis] for axis in axes_of(f.type)]) for f in annotated}


VALID = {RolloutBatch: numbers(RolloutBatch), Responses: numbers(Responses)}
FIELDS = [(of, name) for of, tensors in VALID.items() for name in tensors]
LOG_PROBS = [(of, name) for of, name in FIELDS if name.endswith("log_probs")]


def refused(of, name, wrong):
    """What a class says of valid fields, but for one."""
    with pytest.raises(UsageError) as caught:
        of(**VALID[of] | {name: wrong})
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{of.__name__}: ")
    assert re.search(rf"\b{name}\b", said), said
    return said


def with_number(tensor, number):
    changed = tensor.clone()
    changed[(0,) * tensor.ndim] = number
    return changed


@pytest.mark.parametrize(("of", "name"), LOG_PROBS)
def test_log_probs_above_0_are_refused_where_they_are_read(of, name, unchecked_shapes):
    said = refused(of, name, with_number(VALID[of][name], 0.31))
    assert "log-probabilities are at most 0; got 0.31 at [0, 0" in said
    mask = "response_mask" if of is RolloutBatch else "mask"
    unread = with_number(VALID[of][mask], False)
    of(**VALID[of] | {name: with_number(VALID[of][name], 9.0), mask: unread})
    of(**VALID[of] | {name: with_number(VALID[of][name], 1e-7)})
    of(**VALID[of] | {name: with_number(VALID[of][name], float("nan"))})


@pytest.mark.parametrize("name", [name for of, name in FIELDS if of is RolloutBatch and name in CONSTANTS])
def test_constants_with_a_graph_are_refused(name, unchecked_shapes):
    leaf = VALID[RolloutBatch][name].clone().requires_grad_()
    for wrong in (leaf, leaf * 1):
        assert "carries a gradient graph" in refused(RolloutBatch, name, wrong)


@pytest.mark.parametrize(("of", "name"), FIELDS)
def test_fields_of_another_type_dtype_shape_or_device_are_refused(of, name, unchecked_shapes):
    tensor = VALID[of][name]
    assert "is of type list" in refused(of, name, tensor.tolist())
    assert " is on " in refused(of, name, tensor.to("meta"))
    assert "has shape" in refused(of, name, tensor[None])
    others = {torch.bool: torch.float32, torch.long: torch.float16, torch.float32: torch.long}
    assert re.search(r"; pass \w+\.(bool|long|float)\(\)", refused(of, name, tensor.to(others[tensor.dtype])))


@pytest.mark.parametrize("of", VALID)
def test_required_fields_are_not_none(of, unchecked_shapes):
    for field in fields(of):
        if field.default is MISSING:
            assert f"{field.name} is None; pass a tensor" in refused(of, field.name, None)


def policy(**changes):
    """What a policy gives at the tokens of the valid batch."""
    given = {field: MAKE["Float"]([2, 3, 2][: 3 if field == "top_log_probs" else 2]) for field in PolicyOutput._fields}
    return PolicyOutput(**given | changes)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_objectives_and_regularizers_refuse_log_probs_above_0(part, unchecked_shapes):
    batch = RolloutBatch(**VALID[RolloutBatch])
    leaf = MAKE["Float"]([2, 3]).requires_grad_()
    loss = part(policy(log_probs=leaf), batch).sum()
    (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True) if loss.requires_grad else (None,)
    if gradient is None:
        assert isinstance(part, EntropyBonus | regularizers.ValueRegression)
        return
    for wrong, message in ((0.31, "at most 0; got 0.31 at [0, 0] of log_probs"), (1e-6, "")):
        given = policy(log_probs=with_number(leaf.detach(), wrong))
        if not message:
            part(given, batch)
        else:
            with pytest.raises(UsageError, match=re.escape(message)):
                part(given, batch)


def test_parts_see_what_a_batch_is_refused_for():
    read = {name for part in PARTS for name in part.reads} | {"old_log_probs", "rollout_log_probs"}
    assert {"advantages", "ref_log_probs", "top_log_probs"} < read
    assert all(name in AXES for name in read)
    assert corrections.TruncatedImportance()(RolloutBatch(**VALID[RolloutBatch])).isfinite().all()
