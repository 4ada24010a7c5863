"""The loop: what is computed when, who learns from what, and what is counted."""

import math
from dataclasses import replace

import pytest
import torch
from torch.optim import AdamW

from rl4llm.advantages import GroupRelative, MonteCarlo
from rl4llm.algorithms import Runtime, Updates, compose
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.critics import MiniCritics, SymmetricCritic, group_shards
from rl4llm.gates import AgreementGate
from rl4llm.objectives import Reinforce, SequenceMean
from rl4llm.regularizers import EntropyBonus, KLPenalty, KLReward
from rl4llm.rollouts import HuggingFaceRollout, Sampling
from tests.algorithms.helpers import Watch, critic_slots, loop, rollout, run, slots, weights


def test_asyppo_with_one_critic_no_gate_and_no_filter_is_ppo_to_the_last_bit(tiny_policy):
    from recipes.asyppo import asyppo
    from recipes.ppo import ppo

    options = {"sampling": Sampling(max_response_tokens=6), "responses_per_prompt": 4}
    options |= {"critic_optimizer": lambda params: AdamW(params, lr=1e-3), "critic_updates": Updates()}
    options |= {"aggregator": SequenceMean()}
    lonely = asyppo(
        tiny_policy, critics=MiniCritics(tiny_policy, size=1), gate=None, entropy=EntropyBonus(where=None), **options
    )
    classic = ppo(tiny_policy, **options)
    run(lonely, steps=3)
    run(classic, steps=3)
    assert torch.equal(weights(lonely), weights(classic))
    gated = asyppo(tiny_policy, critics=MiniCritics(tiny_policy, size=2), **options)
    run(gated, steps=3)
    assert not torch.equal(weights(gated.policy), weights(classic.policy))


def test_steps_count_rollout_batches_whatever_the_number_of_optimizers(tiny_policy, tiny_critic):
    watch = Watch()
    updates = Updates(epochs=2, minibatches=3, warmup_steps=0)
    module = compose(tiny_policy, **critic_slots(tiny_critic, updates=updates))
    trainer = run(module, steps=3, callbacks=[watch])
    assert watch.global_steps == [1, 2, 3]
    assert trainer.global_step == 3
    critic_steps = {float(s["step"]) for o in trainer.optimizers[1:] for s in o.state.values()}
    policy_steps = {float(s["step"]) for s in trainer.optimizers[0].state.values()}
    assert policy_steps == {18.0}
    assert critic_steps == {3.0 * Updates().steps}
    assert module.policy_version == 18


def test_the_default_diagnostics_are_logged_and_finite(tiny_policy, tiny_critic):
    watch = Watch()
    run(compose(tiny_policy, **critic_slots(tiny_critic)), steps=2, callbacks=[watch])
    expected = {
        "train/reward", "train/accuracy", "train/response_length", "train/truncated_share", "train/unscorable_share",
        "train/tokens_per_second", "policy/entropy", "policy/clip_share", "policy/approximate_kl", "policy/gated_share",
        "grad_norm/policy", "grad_norm/critic_0", "grad_norm/critic_1", "critic_0/value_loss", "critic_1/value_loss",
        "critics/explained_variance", "critics/spread", "critics/spread_error_correlation",
        "penalty/entropy_filtered_share",
    }  # fmt: skip
    assert expected <= set(watch.steps[-1])
    assert all(math.isfinite(value) for value in watch.steps[-1].values())
    assert watch.steps[0]["policy/gated_share"] == pytest.approx(0.2, abs=0.05)


def test_logged_means_weigh_the_tokens_of_all_ranks(tiny_policy):
    module, here, there = loop(tiny_policy), Meter(), Meter()
    here.add("x", torch.tensor([1.0]))
    here.add("here", torch.tensor([2.0]))
    there.add("x", torch.tensor([5.0, 5.0, 5.0]))
    sent = []
    there.means(lambda own: (sent.append(own), [own])[1])
    logged = {}
    module.runtime = lambda: Runtime(world_size=2, gather=lambda own: [own, sent[0]])
    module.log = lambda name, value, **options: logged.update({name: float(value)})
    module._log(here, tokens=1, seconds=1.0)
    assert logged["x"] == 4.0
    assert logged["here"] == 2.0


def test_each_critic_learns_from_its_own_shard_only(tiny_policy, tiny_critic):
    module = compose(tiny_policy, **critic_slots(tiny_critic))
    seen = {}
    original = module.critics.learn

    def learn(batch, context):
        def minimize(name, rows, loss):
            seen.setdefault(name, []).append((rows, batch))

        original(batch, replace(context, minimize=minimize))

    module.critics.learn = learn
    run(module, steps=1)
    (first, batch), (second, _) = seen["critic_0"][0], seen["critic_1"][0]
    shards = group_shards(batch.group_ids, 2)
    assert torch.equal(first.response_ids, batch.response_ids[shards == 0])
    assert torch.equal(second.response_ids, batch.response_ids[shards == 1])
    assert torch.equal(first.values, batch.critic_values[0][shards == 0])
    assert set(first.group_ids.tolist()) == set(second.group_ids.tolist()) == set(batch.group_ids.tolist())


@pytest.mark.parametrize("first", [True, False])
def test_critics_learn_before_or_after_their_values_are_read(tiny_policy, tiny_critic, first):
    module = compose(tiny_policy, **critic_slots(tiny_critic, learn_critics_first=first))
    order = []
    originals = module.critics.values, module.critics.learn, module._improve
    module.critics.values = lambda *a: (order.append("values"), originals[0](*a))[1]
    module.critics.learn = lambda *a: (order.append("learn"), originals[1](*a))[1]
    module._improve = lambda *a: (order.append("improve"), originals[2](*a))[1]
    run(module, steps=1)
    assert order == (["values", "learn", "values", "improve"] if first else ["values", "improve", "learn"])


@pytest.mark.parametrize("first", [True, False])
def test_warm_up_moves_the_critics_and_not_the_policy(tiny_policy, tiny_critic, first):
    module = compose(tiny_policy, **critic_slots(tiny_critic, critic_warmup=2, learn_critics_first=first))
    policy, critics = weights(module.policy), weights(module.critics)
    trainer = run(module, steps=2)
    assert trainer.global_step == 2
    assert torch.equal(weights(module.policy), policy)
    assert module.policy_version == 0
    assert not torch.equal(weights(module.critics), critics)
    module = compose(tiny_policy, **critic_slots(tiny_critic, critic_warmup=1))
    run(module, steps=2)
    assert not torch.equal(weights(module.policy), policy)


def test_gates_see_the_whole_rollout_batch_and_stay_fixed_during_reuse(tiny_policy, tiny_critic):
    calls = []

    class Counting(AgreementGate):
        def __call__(self, batch):
            calls.append(len(batch))
            return super().__call__(batch)

    updates = Updates(epochs=2, minibatches=3, microbatch_tokens=20)
    module = compose(tiny_policy, **(critic_slots(tiny_critic, updates=updates) | {"gate": Counting()}))
    run(module, steps=1)
    assert calls == [12]


def test_gated_tokens_get_no_policy_gradient_and_filtered_tokens_no_bonus(tiny_policy):
    module = loop(tiny_policy, regularizers={"entropy": EntropyBonus(1.0)})
    batch = rollout(module)
    keep = torch.zeros_like(batch.response_mask)
    batch = batch.replace(advantages=torch.ones_like(batch.rewards), gates=torch.stack([keep, keep]))
    terms = policy_losses(module.policy, module.composition, batch, Meter(), version=0)
    assert all(not term.any() for term in terms)
    batch = batch.replace(gates=torch.stack([batch.response_mask] * 2))
    terms = policy_losses(module.policy, module.composition, batch, Meter(), version=0)
    assert all(term.any() for term in terms)


def test_old_log_probs_are_computed_only_when_needed(tiny_policy):
    calls = []

    def count(updates, **changes):
        calls.clear()
        module = loop(tiny_policy, updates=updates, **changes)
        forward = module.policy.forward
        module.policy.forward = lambda *a, **k: (calls.append(torch.is_grad_enabled()), forward(*a, **k))[1]
        run(module, steps=1)
        return calls.count(False), calls.count(True)

    assert count(Updates(minibatches=1)) == (0, 1)
    assert count(Updates(minibatches=2)) == (0, 2)  # the engine shares the policy's weights
    assert count(Updates(minibatches=2), trust_rollout_log_probs=False) == (1, 2)
    assert count(Updates(minibatches=1), trust_rollout_log_probs=False, kl_reward=KLReward(0.1)) == (1, 1)
    assert count(Updates(minibatches=2), trust_rollout_log_probs=True) == (0, 2)


def test_the_reference_is_loaded_only_when_a_part_needs_it_and_never_moves(tiny_policy):
    assert loop(tiny_policy).reference is None
    for changes in ({"regularizers": {"kl": KLPenalty(0.1)}}, {"kl_reward": KLReward(0.1)}):
        module = loop(tiny_policy, **changes)
        before = weights(module.reference)
        run(module, steps=2)
        assert torch.equal(weights(module.reference), before)
        assert not torch.equal(weights(module.policy), before)


def test_seed_and_counters_are_saved_so_the_next_random_numbers_are_the_same(tiny_policy):
    module = loop(tiny_policy)
    run(module, steps=1, seed=3)
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)

    def drawn(one):
        runtime = one.runtime()
        return torch.cat([runtime.seeds("rollout", range(3)), torch.randperm(9, generator=runtime.generator("deal"))])

    fresh = loop(tiny_policy)
    assert not torch.equal(drawn(fresh), drawn(module))
    fresh.on_load_checkpoint(checkpoint)
    fresh.on_fit_start()
    assert torch.equal(drawn(fresh), drawn(module))
    assert (fresh.seed, fresh.drawn, fresh.policy_version) == (3, 1, 4)


def test_a_run_depends_on_its_seed_alone(tiny_policy, tiny_critic):
    def train(seed):
        module, watch = compose(tiny_policy, **critic_slots(tiny_critic)), Watch()
        run(module, steps=2, seed=seed, callbacks=[watch])
        clocks = ("time/", "train/tokens_per_second")
        return weights(module), [{k: v for k, v in step.items() if not k.startswith(clocks)} for step in watch.steps]

    (first, shown), (again, shown_again), (other, _) = train(1), train(1), train(2)
    assert torch.equal(first, again)
    assert shown == shown_again
    assert not torch.equal(first, other)


def test_responses_that_the_critics_do_not_divide_are_shared_out(tiny_policy, tiny_critic):
    watch = Watch()
    changes = {"critics": MiniCritics(tiny_critic, size=3)}
    run(compose(tiny_policy, **(critic_slots(tiny_critic) | changes)), steps=1, callbacks=[watch])
    assert {"critic_0/value_loss", "critic_1/value_loss", "critic_2/value_loss"} <= set(watch.steps[0])


@pytest.mark.parametrize("critics", [SymmetricCritic(), MiniCritics("rl4llm/digits-critic", aggregate="min")])
def test_other_value_sources_run(tiny_policy, critics):
    trainer = run(loop(tiny_policy, critics=critics, advantage=MonteCarlo()), steps=1)
    assert trainer.global_step == 1


def test_engine_is_a_slot(tiny_policy):
    module = loop(
        tiny_policy, engine=HuggingFaceRollout(rows_at_once=5), objective=Reinforce(), aggregator=SequenceMean()
    )
    assert run(module, steps=1).global_step == 1
    assert slots()["advantage"] == GroupRelative()
