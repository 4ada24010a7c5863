"""A report names the true cause: its first finding has the remedy, and takes the other laws along."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from rl4llm.advantages import Advantages, LeaveOneOut
from rl4llm.gates import Gate
from rl4llm.masked import keep
from rl4llm.objectives import PolicyObjective
from rl4llm.testing import examine, laws_of


def estimator(change):
    class Wrong(LeaveOneOut):
        def __call__(self, batch):
            return change(batch, LeaveOneOut()(batch))

    return Wrong()


def in_place(batch, given):
    batch.values.add_(1.0)
    return given


def rounded(batch, given):
    return LeaveOneOut()(batch.replace(rewards=batch.rewards.float(), scores=batch.scores.float()))


@dataclass(frozen=True)
class Objective(PolicyObjective):
    sign: float = -1.0
    detached: bool = False
    level_of_a_number: bool = False
    reads: ClassVar[tuple[str, ...]] = ("advantages",)
    is_policy_gradient: ClassVar[bool] = True

    def __call__(self, policy, batch):
        (advantages,) = self.take(batch)
        log_ratio = (
            keep(policy.log_probs, batch.response_mask) - keep(batch.old_log_probs, batch.response_mask).detach()
        )
        ratio = (log_ratio.detach() if self.detached else log_ratio).exp()
        loss = keep(self.sign * ratio * advantages.detach(), batch.response_mask)
        return loss.sum() if self.level_of_a_number else loss


@dataclass(frozen=True)
class Numbers(Gate):
    def __call__(self, batch):
        return batch.response_mask.double()


CASES = {
    "nothing": (estimator(lambda batch, given: None), "return Advantages(advantages)"),
    "a tensor": (estimator(lambda batch, given: given.advantages), "return Advantages(advantages)"),
    "per response": (estimator(lambda batch, given: Advantages(batch.scores.nan_to_num())), "rl4llm.masked.spread"),
    "padding": (
        estimator(lambda batch, given: Advantages(torch.where(batch.response_mask, given.advantages, 1.0))),
        "torch.where(batch.response_mask",
    ),
    "in place": (estimator(in_place), "write into a copy"),
    "chance": (
        estimator(lambda batch, given: Advantages(keep(torch.rand_like(batch.rewards), batch.scored_mask))),
        "draw random numbers from a seed",
    ),
    "raises": (estimator(lambda batch, given: batch.no_such_field), "call it on the one below"),
    "rounding": (
        estimator(lambda batch, given: Advantages(rounded(batch, given).advantages.double())),
        "or in a wider",
    ),
    "one number": (Objective(level_of_a_number=True), "leave the mean to an aggregator"),
    "no gradient": (Objective(detached=True), "without detach()"),
    "sign": (Objective(sign=1.0), "negate the loss"),
    "numbers": (Numbers(), "return truth values"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_remedy_names_the_cause(name, unchecked_shapes):
    part, remedy = CASES[name]
    found = examine(part, laws_of(part), examples=12)
    assert any(remedy in str(one) for one in found), "\n".join(map(str, found))
    assert len(found) <= 2, "\n".join(map(str, found))


def test_a_part_that_writes_into_its_batch_is_examined_on_copies(unchecked_shapes):
    found = examine(estimator(in_place), laws_of(LeaveOneOut()), examples=12)
    assert [one.law.name for one in found] == ["inputs are not changed"]
