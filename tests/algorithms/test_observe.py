"""What is logged of a judged rollout batch."""

import torch

from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.observe import observe_batch
from tests.algorithms.helpers import critic_slots, loop, rollout


def test_the_last_two_tokens_of_every_response_have_an_explained_variance_of_their_own(tiny_policy, tiny_critic):
    module = loop(tiny_policy, **critic_slots(tiny_critic))
    batch = rollout(module)
    mask = batch.response_mask
    returns = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    from_the_end = mask.flip(-1).cumsum(-1).flip(-1)
    assert int(from_the_end.max()) > 3
    for known, last_two in ((1, False), (2, True), (3, True)):
        values = torch.where(mask & (from_the_end <= known), returns, torch.zeros_like(returns))
        meter = Meter()
        judged = batch.replace(values=values, returns=returns, gates=mask.expand(2, *mask.shape))
        observe_batch(judged, module.composition, meter)
        means = meter.means(lambda x: [x])
        assert (means["critics/explained_variance_last_two"].item() > 0.999) == last_two
        assert means["critics/explained_variance"].item() < 0.999
