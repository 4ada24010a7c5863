"""Gates by the policy's entropy: ties, and what the components hand on."""

import pytest
import torch

from rl4llm.gates import HighEntropy, LowEntropy
from tests.classic_bugs.test_loss import some_batch


@pytest.mark.parametrize("kind", [HighEntropy, LowEntropy])
def test_of_equal_tokens_exactly_the_share_is_dropped_where_asked(kind, unchecked_shapes):
    batch = some_batch(0)
    batch = batch.replace(entropies=torch.ones_like(batch.rewards))
    tokens = int(batch.response_mask.sum())
    assert tokens > 4
    assert torch.equal(kind(0.5)(batch), batch.response_mask)
    assert int(kind(0.5, exact=True)(batch).sum()) == tokens - tokens // 2
