"""The laws of value sources, with a small stand-in for what the loop lends them."""

from copy import deepcopy
from random import Random
from typing import Any

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.critics import PolicyStates, ValueContext, ValueSource
from rl4llm.testing.laws import Law, close
from rl4llm.testing.views import cast, with_garbage


def states_of(batch: RolloutBatch) -> PolicyStates:
    """Hidden states of width 2 that a policy might have: each tells its own token and the mean of those before it."""

    def hidden(ids: Tensor, before: Tensor) -> Tensor:
        waves = ids.to(batch.scores.dtype).sin()
        means = (before + waves.cumsum(-1)) / torch.arange(1, ids.shape[1] + 1)
        return torch.stack([waves, means], -1)

    prompt = hidden(batch.prompt_ids, torch.zeros_like(batch.scores)[:, None])
    begun = torch.where(batch.prompt_mask, prompt[..., 0], 0.0).sum(-1, keepdim=True)
    return PolicyStates(prompt, hidden(batch.response_ids, begun), batch.old_log_probs.abs())


def stand_in(seen: list[str] | None = None) -> ValueContext:
    """A context without a loop: functions are evaluated at once, completions score by the parity of their prefix.

    Args:
        seen: Where the names of minimized learners go.
    """

    def complete(
        batch: RolloutBatch,
        rows: Tensor,
        cuts: Tensor,
        *,
        samples: int,
        greedy: bool = False,
        unfinished: float | None = None,
    ) -> Tensor:
        begun = torch.stack([batch.response_ids[row, :cut].sum() for row, cut in zip(rows, cuts, strict=True)])
        return ((begun[:, None] + torch.arange(samples)) % 2).to(batch.scores.dtype)

    def minimize(name: str, rows: RolloutBatch, loss: Any) -> None:
        if seen is not None:
            seen.append(name)
        assert loss(rows).isfinite().all(), f"the loss of {name} is not finite"

    return ValueContext(
        map=lambda function, batch: function(batch).detach(),
        minimize=minimize,
        log_probs=lambda batch: batch.old_log_probs,
        own_values=lambda batch: torch.where(batch.response_mask, batch.old_log_probs, 0.0),
        complete=complete,
        decode=lambda batch: [["a"] * width for width in batch.widths.tolist()],
        states=lambda function, batch, layer: function(states_of(batch), batch).detach(),
    )


def _values(part: ValueSource, batch: RolloutBatch) -> Tensor:
    (values,) = part.values(batch.replace(values=None), stand_in()).require("values", by="value_laws")
    return values


def values_are_finite_and_zero_outside(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """One finite value a response token, 0 elsewhere, without graph."""
    values = _values(part, batch)
    assert values.shape == batch.response_mask.shape, f"values have shape {tuple(values.shape)}"
    assert values.isfinite().all(), f"values are not finite: {values.tolist()}"
    assert not values[~batch.response_mask].any(), "masked positions have a value"
    assert not values.requires_grad, "values are attached to a graph"


def values_follow_rows(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """Permuted rows give permuted values."""
    order = torch.tensor(random.sample(range(len(batch)), len(batch)))
    close(_values(part, batch.select(order)), _values(part, batch)[order], f"with rows {order.tolist()} the value")


def values_do_not_see_scores(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """What a response scored does not change the value that it is compared with."""
    rows = torch.ones_like(batch.truncated)
    if part.reads_scores:  # those of the others: a response without others has only its own
        rows = torch.arange(len(batch)) == random.randrange(len(batch))
        if not (~batch.scores[~rows].isnan()).any():
            return
    scores, rewards = 1.0 - batch.scores, -batch.rewards
    other = batch.replace(
        scores=torch.where(rows, scores, batch.scores),
        rewards=torch.where(rows[:, None], rewards, batch.rewards),
        returns=None,
    )
    got, expected = _values(part, other)[rows], _values(part, batch)[rows]
    if part.reads_scores:  # a sum less one of its terms is rounded
        close(got, expected, "with another score of its own the value")
    else:
        assert torch.equal(got, expected), "values change with the scores of the same batch"


def masked_numbers_do_not_matter(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """Numbers at masked positions change nothing."""
    assert torch.equal(_values(part, with_garbage(batch, float("nan"))), _values(part, batch)), "masked NaN is read"


def reading_changes_nothing(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """Values are read without learning, and the batch is left as it was."""
    before = {name: tensor.clone() for name, tensor in batch.tensors().items()}
    first = _values(part, batch)
    assert torch.equal(_values(part, batch), first), "a second reading gives something else"
    for name, tensor in batch.tensors().items():
        assert torch.equal(tensor.nan_to_num(12345.0), before[name].nan_to_num(12345.0)), f"{name} was changed in place"


def dtype_of_rewards(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """Values come in the dtype of the rewards that they are compared with."""
    for dtype in (torch.float32, torch.float64):
        got = _values(part, cast(batch, dtype)).dtype
        assert got == dtype, f"rewards are {dtype}, values {got}"


def learned_travels_with_the_state(part: ValueSource, batch: RolloutBatch, random: Random) -> None:
    """A source that is given the state of another one gives the other's values."""
    taught, fresh = deepcopy(part), deepcopy(part)
    learned = batch.replace(scores=torch.where(batch.scores.isnan(), batch.scores, (batch.scores > 0).double()))
    taught.learn(learned, stand_in())
    fresh.load_state_dict(taught.state_dict())
    close(_values(fresh, batch), _values(taught, batch), "after the state was loaded the value")


VALUE_SOURCES = (
    Law("values are finite, and 0 outside the mask", values_are_finite_and_zero_outside, "mask what the model gives"),
    Law("permuted rows give permuted values", values_follow_rows, "go by prompt_uids or content, not by position"),
    Law("values do not see the scores they are compared with", values_do_not_see_scores, "learn after values are read"),
    Law("masked positions are never read", masked_numbers_do_not_matter, "select with torch.where"),
    Law("values have the dtype of the rewards", dtype_of_rewards, "cast with values.to(batch.rewards.dtype)"),
    Law(
        "what is learned travels with the state",
        learned_travels_with_the_state,
        "keep it in parameters, buffers or get_extra_state",
    ),
    Law("reading changes nothing", reading_changes_nothing, "learn in `learn` only"),
)
