"""The settings of OpenRLHF on the page From TRL or verl give the update of ours, by OpenRLHF's own functions."""

from types import SimpleNamespace

import pytest
import torch

from rl4llm.advantages import MonteCarlo
from rl4llm.bridges.openrlhf import ObjectiveLoss, rollout_batch, with_advantage
from tests.bridges.openrlhf_stubs import without_kernels
from tests.bridges.ragged import assert_same_update, ragged
from tests.bridges.settings import OPENRLHF_ADVANTAGES, OPENRLHF_LOSSES, keywords

pytest.importorskip("openrlhf", reason="OpenRLHF is not installed; .ci/peers installs it")
with without_kernels():
    loss = pytest.importorskip("openrlhf.models.loss")
    makers = pytest.importorskip("openrlhf.trainer.ppo_utils.experience_maker")
    experiences_of = pytest.importorskip("openrlhf.trainer.ppo_utils.experience")

COUNTS = [{}, {"dp_size": 2, "batch_num_tokens": torch.tensor(100.0), "global_batch_size": torch.tensor(20.0)}]


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("theirs", "ours"), OPENRLHF_LOSSES, ids=[theirs for theirs, _ in OPENRLHF_LOSSES])
def test_a_loss_of_openrlhf_is_ours(theirs, ours, seed, counts):
    batch, settings = ragged(seed), keywords(theirs)
    advantages = batch.per_response[:, None] * batch.mask  # GSPO of OpenRLHF reads one number per response
    given = (batch.log_probs, batch.old, advantages, batch.mask)
    their_loss, _, divergence, *_ = loss.PolicyLoss(**settings)(*given, **counts)
    our_loss, _, ours_divergence, *_ = ObjectiveLoss(**keywords(ours))(*given, **counts)
    # OpenRLHF divides by a length plus 1e-8 where it takes the mean of a response.
    nearly = settings.get("token_level_loss") is not True
    assert_same_update(their_loss, our_loss, batch, tolerance=2e-8 if nearly else 1e-12)
    torch.testing.assert_close(ours_divergence, divergence, rtol=1e-9, atol=1e-12)


def rollout(batch, sizes, critic=True):
    """Experiences of the given numbers of rows, as OpenRLHF has them before advantages are computed."""
    sequences = torch.cat([batch.ids[:, :1], batch.ids], dim=1)
    attended = torch.cat([torch.ones_like(batch.mask[:, :1]), batch.mask], dim=1).long()
    rows, found = torch.arange(len(batch.ids)).split(sizes), []
    for piece in rows:
        width = int(batch.mask[piece].sum(-1).max())
        found.append(
            experiences_of.Experience(
                sequences=sequences[piece, : width + 1],
                attention_mask=attended[piece, : width + 1],
                action_mask=batch.mask[piece, :width],
                action_log_probs=batch.old[piece, :width],
                values=batch.values[piece, :width] if critic else None,
                rewards=batch.rewards[piece].sum(-1),
                kl=(batch.old - batch.ref)[piece, :width] * batch.mask[piece, :width],
                index=piece.tolist(),
                info={},
            )
        )
    return found


def maker_of(maker_class, estimator, *, kl=0.0, clip=None, gamma=1.0, lambd=1.0):
    advantage = SimpleNamespace(estimator=estimator, gamma=gamma, lambd=lambd, no_std_norm=False)
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=advantage),
        rollout=SimpleNamespace(n_samples_per_prompt=4),
        reward=SimpleNamespace(clip_range=clip, overlong_buffer_len=None, stop_properly_penalty_coef=None),
    )
    maker = maker_class.__new__(maker_class)
    maker.args, maker.kl_ctl, maker.advantage_estimator = args, SimpleNamespace(value=kl), estimator
    maker.strategy = SimpleNamespace(args=args)
    return maker


@pytest.mark.parametrize("sizes", [[8], [3, 5]])
@pytest.mark.parametrize(("theirs", "ours"), OPENRLHF_ADVANTAGES, ids=[theirs for theirs, _ in OPENRLHF_ADVANTAGES])
def test_an_estimator_of_openrlhf_is_ours(theirs, ours, sizes):
    batch, settings, parts = ragged(0), keywords(theirs), keywords(ours)
    critic = settings["estimator"] == "gae"
    expected = maker_of(makers.RemoteExperienceMaker, **settings)
    expected = expected.compute_advantages_and_returns(rollout(batch, sizes, critic))
    subclass = with_advantage(makers.RemoteExperienceMaker, parts.pop("advantage"), **parts)
    found = maker_of(subclass, **{**settings, "estimator": "reinforce"})
    found = found.compute_advantages_and_returns(rollout(batch, sizes, critic))
    for one, other in zip(expected, found, strict=True):
        # Whitened advantages are taken in float32, and 1e-9 is added to the deviation of a group.
        torch.testing.assert_close(other.advantages, one.advantages * one.action_mask, rtol=1e-5, atol=1e-6)
        assert other.advantages.any()


@pytest.mark.parametrize("clip", [None, (-0.5, 0.5)])
def test_the_charge_and_the_clip_of_openrlhf_stay_in_force(clip):
    # Its REINFORCE without whitening is Monte Carlo returns of the same shaped rewards.
    batch = ragged(1)
    settings = {"estimator": "reinforce", "kl": 0.1, "clip": clip}
    expected = maker_of(makers.RemoteExperienceMaker, **settings)
    expected = expected.compute_advantages_and_returns(rollout(batch, [3, 5], critic=False))
    found = maker_of(with_advantage(makers.RemoteExperienceMaker, MonteCarlo()), **settings)
    found = found.compute_advantages_and_returns(rollout(batch, [3, 5], critic=False))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.returns, one.returns * one.action_mask, rtol=1e-12, atol=1e-12)


def test_an_experience_is_a_batch_on_the_same_memory():
    (experience,) = rollout(ragged(2), [8])
    batch = rollout_batch(experience, samples_per_prompt=4)
    assert batch.values.data_ptr() == experience.values.data_ptr()
    assert batch.old_log_probs.data_ptr() == experience.action_log_probs.data_ptr()
    assert torch.equal(batch.response_ids, experience.sequences[:, 1:])
    assert batch.group_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
