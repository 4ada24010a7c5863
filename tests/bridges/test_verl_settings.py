"""The settings of verl on the page From TRL or verl give the update of ours, by verl's own functions."""

import pytest
import torch

from rl4llm.advantages import GroupRelative, LeaveOneOut, MonteCarlo
from rl4llm.batch import PolicyOutput
from rl4llm.bridges.columns import batch_of
from rl4llm.bridges.verl import Loss
from rl4llm.critics import ClippedValueLoss
from rl4llm.gates import HighCovariance
from rl4llm.masked import keep
from rl4llm.objectives import ImportanceWeighted, TokenMean
from rl4llm.regularizers import LogRatioPenalty
from tests.bridges.ragged import assert_same_update, ragged
from tests.bridges.settings import (
    VERL_ADVANTAGES,
    VERL_ADVANTAGES_NEARLY,
    VERL_LOSSES,
    VERL_LOSSES_NEARLY,
    keywords,
    policy_loss,
)

core = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed; .ci/peers installs it")
losses = pytest.importorskip("verl.workers.utils.losses")
config = pytest.importorskip("verl.workers.config")
algorithm = pytest.importorskip("verl.trainer.config")
ray_trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer")
protocol = pytest.importorskip("verl.protocol")


def actor_config(**settings):
    """The configuration of an actor; some settings stand below `policy_loss`."""
    names = ("loss_mode", "kl_cov_ratio", "ppo_kl_coef")
    below = {name: settings.pop(name) for name in names if name in settings}
    return config.ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=config.PolicyLossConfig(**below),
        **settings,
    )


def their_loss(batch, monkeypatch, **settings):
    """The loss of an actor's step by verl's `ppo_loss`, on padded tensors."""
    chosen = actor_config(**settings)
    monkeypatch.setattr(losses, "no_padding_2_padding", lambda tensor, data: tensor)
    columns = {
        "response_mask": batch.mask,
        "old_log_probs": batch.old,
        "advantages": batch.advantages,
        "ref_log_prob": batch.ref,
        "dp_size": 1,
        "batch_num_tokens": None,
        "global_batch_size": None,
    }

    class Data(dict):
        def select(self, *names):
            return Data({name: self[name] for name in names})

        def to_padded_tensor(self):
            return self

    output = {"log_probs": batch.log_probs}
    if chosen.entropy_coeff:
        output["entropy"] = batch.entropies
    return losses.ppo_loss(chosen, output, Data(columns))[0]


def our_batch(batch):
    columns = {"advantages": batch.advantages, "old_log_probs": batch.old, "ref_log_probs": batch.ref}
    return batch_of("test", batch.mask, {**columns, "rollout_log_probs": batch.old})


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("theirs", "ours"), VERL_LOSSES, ids=[theirs for theirs, _ in VERL_LOSSES])
def test_a_loss_of_verl_is_ours(theirs, ours, seed, holes, monkeypatch):
    batch = ragged(seed, holes=holes)
    policy = PolicyOutput(batch.log_probs, entropies=batch.entropies)
    found = policy_loss(ours)(policy, our_batch(batch))
    assert_same_update(their_loss(batch, monkeypatch, **keywords(theirs)), found, batch)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("theirs", "ours"), VERL_LOSSES_NEARLY, ids=[theirs for theirs, _ in VERL_LOSSES_NEARLY])
def test_a_loss_of_verl_is_ours_but_for_its_constant(theirs, ours, seed, monkeypatch):
    # verl divides by n + 1e-8 tokens: a relative difference of at most 1e-8.
    batch = ragged(seed)
    found = policy_loss(ours)(PolicyOutput(batch.log_probs), our_batch(batch))
    assert_same_update(their_loss(batch, monkeypatch, **keywords(theirs)), found, batch, tolerance=2e-8)


@pytest.mark.parametrize("seed", range(2))
def test_the_geometric_mean_of_verl_is_gmpo(seed, monkeypatch):
    # verl takes the sign of each token's advantage; one advantage per response, as in the paper, gives the same.
    batch = ragged(seed)
    batch = batch._replace(advantages=batch.per_response[:, None] * batch.mask)
    theirs, ours = 'loss_mode="geo_mean", clip_ratio_low=0.4, clip_ratio_high=0.4', "objective=GMPO(0.4)"
    found = policy_loss(ours)(PolicyOutput(batch.log_probs), our_batch(batch))
    assert_same_update(their_loss(batch, monkeypatch, **keywords(theirs)), found, batch, tolerance=2e-8)


@pytest.mark.parametrize("seed", range(2))
def test_kl_cov_is_a_penalty_where_the_covariance_is_high(seed, monkeypatch):
    batch = ragged(seed)
    settings = {"loss_mode": "kl_cov", "kl_cov_ratio": 0.25, "ppo_kl_coef": 0.1}
    ours, policy = our_batch(batch), PolicyOutput(batch.log_probs)
    kept = HighCovariance(fraction=0.25)(ours.replace(present_log_probs=batch.log_probs.detach()))
    terms = ImportanceWeighted()(policy, ours) + keep(LogRatioPenalty(0.1)(policy, ours), kept)
    assert 0 < kept.sum() < batch.mask.sum()
    assert_same_update(their_loss(batch, monkeypatch, **settings), TokenMean()(terms, batch.mask), batch)


@pytest.mark.parametrize(("name", "ours"), [("grpo", GroupRelative()), ("rloo", LeaveOneOut())])
def test_a_group_of_one_has_its_score_as_advantage_in_verl_and_none_in_ours(name, ours):
    batch = ragged(0, size=1)
    theirs, _ = advantages_of_verl(batch, name)
    torch.testing.assert_close(theirs, batch.rewards.sum(-1)[:, None] * batch.mask, rtol=1e-5, atol=1e-5)
    assert not our_advantages(batch, ours)[0].any()


def advantages_of_verl(batch, name, **settings):
    """Advantages and returns by verl's function, called as `compute_advantage` calls it."""
    given = {"token_level_rewards": batch.rewards, "response_mask": batch.mask.long()}
    if name == "gae":
        options = {"values": batch.values, "gamma": settings["gamma"], "lam": settings["lam"]}
        return core.get_adv_estimator_fn(name)(**given, **options)
    named = {"index": [f"prompt {group}" for group in batch.groups.tolist()]}
    if name == "remax":
        named["reward_baselines"] = batch.values[:, 0]
    if name == "grpo":
        return core.get_adv_estimator_fn(name)(**given, **named, **settings)
    return core.get_adv_estimator_fn(name)(**given, **named, config=algorithm.AlgoConfig(**settings))


def our_advantages(batch, advantage, whitening=None):
    columns = {"rewards": batch.rewards, "scores": batch.rewards.sum(-1), "group_ids": batch.groups}
    columns |= {name: getattr(batch, name) for name in advantage.reads}
    ours = batch_of("test", batch.mask, columns)
    advantages, returns = advantage(ours)
    return advantages if whitening is None else whitening(advantages, ours), returns


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("theirs", "ours"), VERL_ADVANTAGES, ids=[theirs for theirs, _ in VERL_ADVANTAGES])
def test_an_estimator_of_verl_is_ours(theirs, ours, seed, holes):
    batch, settings = ragged(seed, holes=holes), keywords(theirs)
    expected, _ = advantages_of_verl(batch, settings.pop("adv_estimator"), **settings)
    found, _ = our_advantages(batch, **keywords(ours))
    torch.testing.assert_close(found, expected * batch.mask, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("theirs", "ours"), VERL_ADVANTAGES_NEARLY)
def test_an_estimator_of_verl_is_ours_but_for_its_constants(theirs, ours, seed, holes):
    batch, settings = ragged(seed, holes=holes), keywords(theirs)
    name = settings.pop("adv_estimator")
    expected, their_returns = advantages_of_verl(batch, name, **settings)
    found, returns = our_advantages(batch, **keywords(ours))
    tolerance = 1e-7  # of whitening: 1e-8 added to the variance, and to the count of tokens in every mean
    if name == "grpo":
        std = torch.stack([batch.rewards.sum(-1)[batch.groups == group].std() for group in batch.groups])
        found, tolerance = found * (std / (std + 1e-6))[:, None], 1e-12
    torch.testing.assert_close(found, expected * batch.mask, rtol=tolerance, atol=tolerance)
    if returns is not None:
        torch.testing.assert_close(returns, their_returns * batch.mask, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_remax_is_the_return_less_the_value_of_the_prompt(seed):
    batch = ragged(seed)
    expected, _ = advantages_of_verl(batch, "remax")
    values = batch.values[:, :1].expand(batch.mask.shape)
    ours = batch_of("test", batch.mask, {"rewards": batch.rewards, "scores": batch.rewards.sum(-1), "values": values})
    torch.testing.assert_close(MonteCarlo()(ours).advantages, expected * batch.mask, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_charge_in_the_reward_of_verl_is_ours(estimator):
    batch = ragged(0)
    columns = {"response_mask": batch.mask.long(), "token_level_scores": batch.rewards}
    columns |= {"old_log_probs": batch.old, "ref_log_prob": batch.ref}
    data = protocol.DataProto.from_dict(tensors=columns)
    ray_trainer.apply_kl_penalty(data, core.FixedKLController(0.01), kl_penalty=estimator)
    ours = our_batch(batch).replace(rewards=batch.rewards)
    shaping = keywords(f'charge=KLReward(0.01, estimator="{estimator}")')["charge"]
    torch.testing.assert_close(shaping(ours), data.batch["token_level_rewards"] * batch.mask, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
@pytest.mark.parametrize("info", [{}, {"dp_size": 2, "batch_num_tokens": 100, "global_batch_size": 20}])
def test_the_registered_loss_counts_as_verl_does(mode, info):
    batch = ragged(1)
    chosen = actor_config(clip_ratio_c=3.0)
    chosen.global_batch_info.update(info)
    given = (batch.old, batch.log_probs, batch.advantages, batch.mask.long(), mode, chosen)
    their_loss, metrics = core.get_policy_loss_fn("vanilla")(*given)
    our_loss, ours = Loss(keywords("objective=PPOClip(dual_clip=3.0)")["objective"])(*given)
    assert_same_update(their_loss, our_loss, batch)
    assert ours["actor/ppo_kl"] == pytest.approx(metrics["actor/ppo_kl"], rel=1e-9)


def test_rollout_weights_of_verl_multiply_the_advantages():
    batch = ragged(2)
    weights = batch.values.abs()
    given = (batch.old, batch.log_probs, batch.advantages, batch.mask, "token-mean", actor_config(clip_ratio_c=3.0))
    their_loss, _ = core.get_policy_loss_fn("vanilla")(*given, rollout_is_weights=weights)
    our_loss, _ = Loss(keywords("objective=PPOClip(dual_clip=3.0)")["objective"])(*given, rollout_is_weights=weights)
    assert_same_update(their_loss, our_loss, batch)


def test_the_value_loss_of_verl_is_half_of_ours():
    batch = ragged(0)
    values = batch.values.clone().requires_grad_()
    old, returns = batch.values + 0.3 * batch.advantages, batch.rewards
    theirs, _ = core.compute_value_loss(values, returns, old, batch.mask.long(), 0.2, "token-mean")
    scores = torch.zeros(len(batch.mask), dtype=torch.float64)
    ours = batch_of("test", batch.mask, {"values": old, "returns": returns, "scores": scores})
    found = TokenMean()(ClippedValueLoss(clip=0.2)(values, ours), batch.mask)
    expected, slope = (torch.autograd.grad(loss, values)[0] for loss in (theirs, found / 2))
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-12)
    assert slope.any()
