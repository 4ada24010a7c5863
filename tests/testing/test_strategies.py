"""The strategies reach every corner that they promise, and shrink to what can be read."""

from contextlib import suppress

import pytest
import torch
from hypothesis import Phase, find, settings
from hypothesis.errors import NoSuchExample

from rl4llm.testing import describe, rollouts
from rl4llm.testing.strategies import DTYPES

ANY = settings(phases=[Phase.generate], max_examples=5000, database=None)
CORNERS = {
    "many in one group": lambda b: len(b) > 8 and len(b.group_ids.unique()) == 1,
    "groups of one": lambda b: len(b) > 3 and len(b.group_ids.unique()) == len(b),
    "two groups that alternate": lambda b: len(b) > 3 and b.group_ids[0] == b.group_ids[2] != b.group_ids[1],
    "two draws of a prompt": lambda b: len(b.prompt_uids.unique()) < len(b.group_ids.unique()),
    "an empty response among others": lambda b: (b.lengths == 0).any() and (b.lengths > 0).any(),
    "nothing at all": lambda b: not b.response_mask.any(),
    "padding on the left": lambda b: b.response_mask[:, -1].all() and not b.response_mask[:, 0].any(),
    "a hole": lambda b: (b.response_mask[:, :-2] & ~b.response_mask[:, 1:-1] & b.response_mask[:, 2:]).any(),
    "left-padded prompts": lambda b: not b.prompt_mask[:, 0].all() and b.prompt_mask[:, -1].all(),
    "eight critics": lambda b: b.critic_values.shape[0] == 8,
    "one critic": lambda b: b.critic_values.shape[0] == 1,
    "a missing score": lambda b: b.scores.isnan().any() and not b.scores.isnan().all(),
    "no score at all": lambda b: len(b) > 1 and b.scores.isnan().all(),
    "ties": lambda b: len(b) > 2 and (b.scores == b.scores[0]).all(),
    "huge scores": lambda b: (b.scores.abs() > 5000).any(),
    "all but certain and all but impossible": lambda b: {-1e-6, -50.0} <= set(b.old_log_probs.flatten().tolist()),
    "truncated and not": lambda b: b.truncated.any() and not b.truncated.all(),
    "replayed and not": lambda b: b.replayed.any() and not b.replayed.all(),
    "shaped rewards": lambda b: (b.outcomes != b.scores)[~b.scores.isnan()].any(),
}  # fmt: skip


@pytest.mark.long
def test_every_corner_is_reached(unchecked_shapes):
    missing = dict(CORNERS)

    def reaches_the_last(batch):
        for name in [name for name, reached in missing.items() if reached(batch)]:
            del missing[name]
        return not missing

    with suppress(NoSuchExample):
        find(rollouts(), reaches_the_last, settings=ANY)
    assert not list(missing)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_drawn(dtype, unchecked_shapes):
    batch = find(rollouts(dtype=None), lambda batch: batch.scores.dtype == dtype, settings=ANY)
    floats = {name: x.dtype for name, x in batch.tensors().items() if x.is_floating_point()}
    assert set(floats.values()) == {dtype}


def test_a_counterexample_shrinks_to_lines_that_can_be_pasted(unchecked_shapes):
    batch = find(rollouts(), lambda batch: bool((batch.scores > 0.4).sum() > 1), settings=settings(database=None))
    assert len(batch) == 2
    names = {"torch": torch}
    pasted = eval(f"dict({describe(batch).replace(chr(10), ', ')})", names)
    assert pasted["scores"].tolist() == [1.0, 1.0]
    assert pasted["group_ids"].tolist() == [0, 0]
    assert pasted["response_mask"].tolist() == [[False], [False]]
