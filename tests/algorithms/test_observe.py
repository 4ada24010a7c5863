"""What is logged of a judged rollout batch."""

import torch

from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.observe import observe_batch
from rl4llm.gates import AgreementGate
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


def test_errors_and_calibration_are_those_of_the_whole_batch(tiny_policy, tiny_critic):
    module = loop(tiny_policy, **critic_slots(tiny_critic))
    batch = rollout(module)
    mask = batch.response_mask
    returns = mask.float().cumsum(-1)  # the j-th token of n has j, and the values say 0
    judged = batch.replace(values=torch.zeros_like(returns), returns=returns, gates=mask.expand(2, *mask.shape))
    meter = Meter()
    observe_batch(judged, module.composition, meter)
    means = meter.means(lambda x: [x])
    errors = [means[f"critics/error_{part}"].item() for part in ("begin", "middle", "end")]
    assert errors == sorted(errors)
    assert errors[0] < errors[2]
    assert abs(means["critics/calibration_error"].item() - returns[mask].mean().item()) < 1e-5


def test_gated_tokens_are_told_apart_by_kind(tiny_policy, tiny_critic):
    """A gate that keeps numbers and drops everything else."""
    module = loop(tiny_policy, **critic_slots(tiny_critic) | {"gate": AgreementGate()})
    batch = rollout(module)
    mask, tokenizer = batch.response_mask, module.policy.tokenizer
    numbers = torch.tensor(
        [[text.isdigit() for text in tokenizer.convert_ids_to_tokens(row)] for row in batch.response_ids]
    )
    keep = mask & numbers
    judged = batch.replace(gates=torch.stack([keep, mask]))
    meter = Meter()
    observe_batch(judged, module.composition, meter, tokenizer)
    means = meter.means(lambda x: [x])
    assert means["policy/gated_share/number"] == 0
    shares = [share.item() for name, share in means.items() if name.startswith("policy/gated_share/")]
    assert set(shares) == {0.0, 1.0}
    observe_batch(judged, module.composition, meter := Meter())
    assert not [name for name in meter.means(lambda x: [x]) if name.startswith("policy/gated_share/")]
