"""What a name promises is checked where numbers can be read without waiting, and nowhere else."""

import pytest
import torch

from rl4llm import roles
from rl4llm.checks import UsageError
from rl4llm.errors import GraphError
from rl4llm.objectives import ppo_clip
from rl4llm.roles import CONSTANTS, check_kinds, check_roles, rounding_margin
from tests.log_probs import random_log_probs

MASK = torch.tensor([[True, True, False], [True, False, False]])
LOGS = torch.full((2, 3), -1.0)


def at(place, number, dtype=torch.float32):
    changed = LOGS.to(dtype).clone()
    changed[place] = number
    return changed


@pytest.mark.parametrize("name", ["log_probs", "old_log_probs", "ref_log_probs", "top_log_probs", "my_log_probs"])
def test_the_message_has_number_place_rule_and_remedy(name):
    with pytest.raises(UsageError) as caught:
        check_roles("f", MASK, **{name: at((1, 0), 0.31)})
    assert str(caught.value) == (
        f"f: log-probabilities are at most 0; got 0.31 at [1, 0] of {name}: pass log_softmax(logits, -1).gather(-1, "
        "ids[..., None])[..., 0], or use rl4llm.log_probs.token_log_probs."
    )


def test_the_first_wrong_number_that_is_read_is_named():
    wrong = torch.tensor([[-1.0, -1.0, 5.0], [float("nan"), 3.0, 4.0]])
    check_roles("f", MASK, log_probs=wrong)
    with pytest.raises(UsageError, match=r"got 5 at \[0, 2\] of log_probs"):
        check_roles("f", log_probs=wrong)
    listed = torch.stack([LOGS, at((0, 1), 2.0)], -1)
    with pytest.raises(UsageError, match=r"got 2 at \[0, 1, 1\] of top_log_probs"):
        check_roles("f", MASK, top_log_probs=listed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_log_probs_may_exceed_0_by_rounding(dtype):
    margin = rounding_margin(dtype)
    check_roles("f", log_probs=at((0, 0), 0.9 * margin, dtype))
    with pytest.raises(UsageError, match="at most 0"):
        check_roles("f", log_probs=at((0, 0), 1.1 * margin, dtype))


def test_the_margin_is_wide_for_half_precision_only():
    margins = [rounding_margin(dtype) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)]
    assert 1e-6 < margins[0] == margins[1] < 1e-3 < margins[2] < margins[3] < 0.1


def test_numbers_that_are_not_finite_are_log_probs_to_be_reported_by_others():
    check_roles("f", log_probs=torch.tensor([float("nan"), -torch.inf, -1.0]))
    with pytest.raises(UsageError, match=r"got inf at \[1\]"):
        check_roles("f", log_probs=torch.tensor([float("nan"), torch.inf]))


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_a_constant_has_no_graph(name):
    check_roles(
        "f", **{name: LOGS, "log_probs": LOGS.clone().requires_grad_(), "values": LOGS.clone().requires_grad_()}
    )
    with pytest.raises(
        GraphError, match=f"^f: {name} carries a gradient graph, but it is a constant of the update: det"
    ):
        check_roles("f", **{name: LOGS.clone().requires_grad_()})


@pytest.mark.parametrize("reward", [float("nan"), torch.inf, -torch.inf])
def test_rewards_that_are_read_are_finite(reward):
    check_roles("f", MASK, rewards=at((0, 2), reward))
    check_roles("f", rewards=torch.tensor([3e38, 3e38]))  # their sum is not finite, but they are
    with pytest.raises(UsageError, match=rf"f: rewards must be finite; got {reward} at \[1, 0\] of rewards: set re"):
        check_roles("f", MASK, rewards=at((1, 0), reward))


def test_nothing_is_read_of_empty_tensors():
    check_roles("f", MASK[:, :0], log_probs=LOGS[:, :0], rewards=LOGS[:, :0])
    check_roles("f", MASK[:0], log_probs=LOGS[:0], top_log_probs=LOGS[:0, :, None])


def test_kinds_are_told_apart():
    tensors = {"a": LOGS, "b": LOGS.long(), "c": MASK}
    check_kinds("f", tensors, {"a": "Float", "b": "Int", "c": "Bool"})
    for kinds, message in (
        ({"a": "Int", "b": "Int", "c": "Bool"}, "a must hold integers, got torch.float32; pass a.long()"),
        ({"a": "Float", "b": "Float", "c": "Bool"}, "b must hold floating numbers, got torch.int64; pass b.float()"),
        ({"a": "Float", "b": "Bool", "c": "Bool"}, "b must be a bool tensor, got torch.int64; pass b.bool()"),
        ({"a": "Float", "b": "Int", "c": "Int"}, "c must hold integers, got torch.bool; pass c.long()"),
    ):
        with pytest.raises(UsageError, match=f"^f: {message}".replace("(", r"\(").replace(")", r"\)")):
            check_kinds("f", tensors, kinds)


class Elsewhere:
    """Stands for a tensor on an accelerator: it counts how often its numbers are waited for."""

    waits = 0
    dtype, device, ndim, requires_grad = torch.float32, torch.device("cuda"), 2, False

    def numel(self):
        return 6

    def is_floating_point(self):
        return True

    def detach(self):
        return self

    def amax(self):
        self.waits += 1
        return 0.0


def test_numbers_on_an_accelerator_are_waited_for_in_the_first_call_of_each_function_only(
    monkeypatch, unchecked_shapes
):
    monkeypatch.setattr(roles, "_looked_at", set())
    there = Elsewhere()
    for _ in range(3):
        check_roles("f", log_probs=there)
    assert there.waits == 1
    check_roles("f", old_log_probs=there)
    check_roles("g", log_probs=there)
    assert there.waits == 3


def loss(log_probs):
    return ppo_clip(log_probs, LOGS, LOGS, MASK).sum()


def test_numbers_are_not_read_while_a_function_is_compiled(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    check_roles("f", log_probs=at((0, 0), 0.31), rewards=at((0, 0), torch.inf))


def test_checked_functions_can_be_mapped_and_traced():
    wrong = at((0, 0), 0.31)
    assert torch.func.vmap(loss)(torch.stack([LOGS, LOGS])).shape == (2,)
    assert torch.func.grad(loss)(LOGS).isfinite().all()
    meta = [x.to("meta") for x in (LOGS, LOGS, LOGS, MASK)]
    assert ppo_clip(*meta).shape == (2, 3)
    with pytest.raises(UsageError, match="at most 0"):
        torch.func.grad(loss)(wrong)


def test_log_probs_for_tests_are_log_probs():
    check_roles("f", log_probs=random_log_probs(50, 4))
