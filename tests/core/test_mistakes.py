"""What callers pass by mistake is refused in one line that names the argument, what came and what to do."""

import pytest
import torch

from rl4llm.advantages import gae, group_relative
from rl4llm.checks import UsageError
from rl4llm.critics import value_loss
from rl4llm.gates import agreement_gate
from rl4llm.objectives import ppo_clip, token_mean

MASK = torch.tensor([[True, True, False], [True, False, False]])
ONES = torch.ones(2, 3)
LOGS = -ONES
SIBLINGS = torch.tensor([0, 0])
MISTAKES = {
    "list": (lambda: gae(ONES.tolist(), ONES, MASK, gamma=1.0, lam=1.0), "gae: rewards is of type list; pass a tensor"),
    "array": (lambda: gae(ONES.numpy(), ONES, MASK, gamma=1.0, lam=1.0), "gae: rewards is of type ndarray; pass a"),
    "none": (lambda: gae(ONES, None, MASK, gamma=1.0, lam=1.0), "gae: values is None; pass a tensor."),
    "mask": (lambda: gae(ONES, ONES, MASK.tolist(), gamma=1.0, lam=1.0), "gae: response_mask is of type list"),
    "ids": (lambda: group_relative(torch.ones(2), ["a", "a"]), "group_relative: group_ids is of type list"),
    "scores": (lambda: group_relative(torch.ones(2).numpy(), SIBLINGS), "group_relative: scores is of type ndarray"),
    "critics": (lambda: agreement_gate(ONES[None].tolist(), MASK), "agreement_gate: critic_values is of type list"),
    "no critics": (lambda: agreement_gate(None, MASK), "agreement_gate: critic_values is None"),
    "returns": (lambda: value_loss(ONES, None, MASK), "value_loss: returns is None"),
    "losses": (lambda: token_mean(ONES.tolist(), MASK), "token_mean: per_token is of type list"),
    "responses": (lambda: ppo_clip(LOGS, LOGS, torch.ones(2), MASK), "rl4llm.masked.spread(advantages, response_mask)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_a_caller_is_one_line_that_names_it(mistake, unchecked_shapes):
    call, message = MISTAKES[mistake]
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
