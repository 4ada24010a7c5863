"""The loop: what is computed when, who learns from what, and what is counted."""

import math
from dataclasses import replace

import lightning
import pytest
import torch
from rl4llm.algorithms.valuing import with_log_probs
from torch.optim import SGD

from rl4llm.advantages import GAE, GroupRelative, LeaveOneOut, MonteCarlo
from rl4llm.algorithms import PolicyGradient, Updates
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError
from rl4llm.critics import MiniCritics, SymmetricCritic, group_shards
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.gates import AgreementGate, DivergenceFilter, HighEntropy
from rl4llm.objectives import PPOClip, Reinforce, SequenceMean
from rl4llm.regularizers import EntropyBonus, KLPenalty, KLReward
from rl4llm.rollouts import HuggingFaceRollout, Sampling
from tests.algorithms.helpers import TASK, critic_slots, even_length, loop, run, slots


class Watch(lightning.Callback):
    """Keeps what was logged at every step."""

    def __init__(self):
        self.steps, self.global_steps = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.global_steps.append(trainer.global_step)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def rollout(module, prompts=4, seed=0):
    batch = next(iter(PromptData(TASK, prompts_per_step=prompts, seed=seed).train_dataloader()))
    module.on_fit_start()
    return module.actor.act(module.policy, batch, module.generator, Meter())


def test_the_first_ratio_is_one_in_train_mode(tiny_policy):
    module = loop(tiny_policy, updates=Updates(minibatches=4, microbatch_tokens=64)).train()
    module.policy.train()
    module._fabric = None
    batch = rollout(module, prompts=32)
    with_old = with_log_probs(module, batch)
    new = module.policy(batch.trim(), temperature=1.0).log_probs
    difference = (new - with_old.old_log_probs)[batch.response_mask].abs().max()
    assert difference < 1e-6
    assert (new - batch.rollout_log_probs)[batch.response_mask].abs().max() < 2e-6


def test_dropout_of_the_model_is_switched_off(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from rl4llm.models import Policy, TinyQwen3

    tokenizer = TinyQwen3().build()[1]
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, resid_pdrop=0.5, attn_pdrop=0.5,
        eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    assert config.embd_pdrop > 0
    Policy(GPT2LMHeadModel(config), tokenizer).save(tmp_path)
    module = loop(str(tmp_path)).train()
    module.policy.model.train()
    batch = rollout(module)
    first, second = module.policy(batch).log_probs, module.policy(batch).log_probs
    assert torch.equal(first, second)
    assert (first - batch.rollout_log_probs)[batch.response_mask].abs().max() < 2e-6


def test_asyppo_with_one_critic_no_gate_and_no_filter_is_ppo_to_the_last_bit(tiny_policy):
    from recipes.asyppo import asyppo
    from recipes.ppo import ppo

    options = {"sampling": Sampling(max_response_tokens=6), "responses_per_prompt": 4}
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
    module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic, updates=updates))
    trainer = run(module, steps=3, callbacks=[watch])
    assert watch.global_steps == [1, 2, 3]
    assert trainer.global_step == 3
    critic_steps = {float(s["step"]) for o in trainer.optimizers[1:] for s in o.state.values()}
    policy_steps = {float(s["step"]) for s in trainer.optimizers[0].state.values()}
    assert policy_steps == {18.0}
    assert critic_steps == {3.0 * Updates().steps}


def test_the_default_diagnostics_are_logged_and_finite(tiny_policy, tiny_critic):
    watch = Watch()
    run(PolicyGradient(tiny_policy, **critic_slots(tiny_critic)), steps=2, callbacks=[watch])
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


def test_each_critic_learns_from_its_own_shard_only(tiny_policy, tiny_critic):
    module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic))
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
    module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic, learn_critics_first=first))
    order = []
    originals = module.critics.values, module.critics.learn, module._improve
    module.critics.values = lambda *a: (order.append("values"), originals[0](*a))[1]
    module.critics.learn = lambda *a: (order.append("learn"), originals[1](*a))[1]
    module._improve = lambda *a: (order.append("improve"), originals[2](*a))[1]
    run(module, steps=1)
    assert order == (["values", "learn", "values", "improve"] if first else ["values", "improve", "learn"])


@pytest.mark.parametrize("first", [True, False])
def test_warm_up_moves_the_critics_and_not_the_policy(tiny_policy, tiny_critic, first):
    module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic, critic_warmup=2, learn_critics_first=first))
    policy, critics = weights(module.policy), weights(module.critics)
    trainer = run(module, steps=2)
    assert trainer.global_step == 2
    assert torch.equal(weights(module.policy), policy)
    assert not torch.equal(weights(module.critics), critics)
    module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic, critic_warmup=1))
    run(module, steps=2)
    assert not torch.equal(weights(module.policy), policy)


def test_gates_see_the_whole_rollout_batch_and_stay_fixed_during_reuse(tiny_policy, tiny_critic):
    calls = []

    class Counting(AgreementGate):
        def __call__(self, batch):
            calls.append(len(batch))
            return super().__call__(batch)

    updates = Updates(epochs=2, minibatches=3, microbatch_tokens=20)
    module = PolicyGradient(tiny_policy, **(critic_slots(tiny_critic, updates=updates) | {"gate": Counting()}))
    run(module, steps=1)
    assert calls == [12]


def test_gated_tokens_get_no_policy_gradient_and_filtered_tokens_no_bonus(tiny_policy):
    module = loop(tiny_policy, regularizers={"entropy": EntropyBonus(1.0)})
    batch = rollout(module)
    keep = torch.zeros_like(batch.response_mask)
    batch = batch.replace(advantages=torch.ones_like(batch.rewards), gates=torch.stack([keep, keep]))
    terms = policy_losses(module.policy, module.composition, batch, Meter(), temperature=1.0, on_policy=True)
    assert all(not term.any() for term in terms)
    batch = batch.replace(gates=torch.stack([batch.response_mask] * 2))
    terms = policy_losses(module.policy, module.composition, batch, Meter(), temperature=1.0, on_policy=True)
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
    assert count(Updates(minibatches=2)) == (1, 2)
    assert count(Updates(minibatches=2), trust_rollout_log_probs=True) == (0, 2)


def test_the_reference_is_loaded_only_when_a_part_needs_it_and_never_moves(tiny_policy):
    assert loop(tiny_policy).reference is None
    for changes in ({"regularizers": {"kl": KLPenalty(0.1)}}, {"kl_reward": KLReward(0.1)}):
        module = loop(tiny_policy, **changes)
        before = weights(module.reference)
        run(module, steps=2)
        assert torch.equal(weights(module.reference), before)
        assert not torch.equal(weights(module.policy), before)


def test_unscorable_responses_are_counted_and_teach_nothing(tiny_policy):
    def broken(prompt, response, answer):
        raise RuntimeError("the verifier is down")

    watch = Watch()
    module = loop(tiny_policy)
    before = weights(module.policy)
    data = PromptData(AbsoluteDifference(digits=3, train_size=64, reward=broken), prompts_per_step=3)
    with pytest.warns(UserWarning, match="reward 'broken' could not score 12 of 12 responses .RuntimeError: the verif"):
        run(module, steps=1, callbacks=[watch], data=data, gradient_clip_val=None)
    assert watch.steps[0]["train/unscorable_share"] == 1.0
    assert "train/accuracy" not in watch.steps[0]
    module = loop(tiny_policy, optimizer=lambda p: SGD(p, lr=1.0))
    with pytest.warns(UserWarning, match="could not score"):
        run(module, steps=1, data=data)
    assert torch.equal(weights(module.policy), before)


def test_some_unscorable_responses_change_nothing_for_the_others(tiny_policy):
    def sometimes(prompt, response, answer):
        return float("nan") if "1" in response else even_length(prompt, response, answer)

    module = loop(tiny_policy)
    data = PromptData(AbsoluteDifference(digits=3, train_size=64, reward=sometimes), prompts_per_step=8)
    module.on_fit_start()
    with pytest.warns(UserWarning, match="returned nan"):
        batch = module.actor.act(module.policy, next(iter(data.train_dataloader())), module.generator, Meter())
    lost = batch.scores.isnan()
    assert lost.any()
    assert not lost.all()
    assert not batch.response_mask[lost].any()
    assert not batch.rewards[lost].any()
    assert not module.composition.with_advantages(batch).advantages[lost].any()


def test_rewards_hold_the_score_at_the_last_token(tiny_policy):
    batch = rollout(loop(tiny_policy))
    torch.testing.assert_close(batch.rewards.sum(-1), batch.scores)
    last = batch.lengths - 1
    torch.testing.assert_close(batch.rewards.gather(1, last[:, None])[:, 0], batch.scores)


def test_the_logged_entropy_is_that_of_response_tokens(tiny_policy):
    module, meter = loop(tiny_policy), Meter()
    module.on_fit_start()
    prompts = next(iter(PromptData(TASK, prompts_per_step=4, seed=0).train_dataloader()))
    batch = module.actor.act(module.policy, prompts, module.generator, meter)
    assert not batch.response_mask.all()
    expected = batch.entropies[batch.response_mask].mean()
    torch.testing.assert_close(meter.means()["policy/entropy"], expected)


def test_two_draws_of_one_prompt_are_two_groups(tiny_policy):
    module = loop(tiny_policy)
    module.on_fit_start()
    example = TASK.examples("train")[0]
    from rl4llm.data import PromptBatch

    batch = module.actor.act(module.policy, PromptBatch([example, example], TASK), module.generator, Meter())
    assert batch.group_ids.tolist() == [0] * 4 + [1] * 4
    assert batch.prompt_uids.unique().numel() == 1


def test_random_states_are_saved_with_the_weights(tiny_policy):
    module = loop(tiny_policy)
    run(module, steps=1)
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    drawn = torch.rand(3, generator=module.generator)
    fresh = loop(tiny_policy)
    fresh.on_load_checkpoint(checkpoint)
    fresh.on_fit_start()
    assert torch.equal(torch.rand(3, generator=fresh.generator), drawn)


def test_a_run_depends_on_its_seed_alone(tiny_policy, tiny_critic):
    def train(seed):
        module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic))
        run(module, steps=2, seed=seed)
        return weights(module)

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


def test_an_all_masked_minibatch_is_harmless(tiny_policy):
    module = loop(tiny_policy, updates=Updates(minibatches=12, warmup_steps=0))

    def rarely(prompt, response, answer):
        return None if len(response) > 1 else 1.0

    data = PromptData(AbsoluteDifference(digits=3, train_size=64, reward=rarely), prompts_per_step=3)
    with pytest.warns(UserWarning, match="returned None"):
        run(module, steps=2, data=data)
    assert weights(module).isfinite().all()


WRONG = [
    ({"gate": AgreementGate()}, "gate=AgreementGate needs critic_values.*--model.gate=null"),
    ({"advantage": GAE()}, "advantage=GAE needs values, but there are no critics"),
    ({"regularizers": {"entropy": EntropyBonus(where=DivergenceFilter())}}, "entropy.where=DivergenceFilter needs"),
    ({"gate": HighEntropy() & AgreementGate()}, "gate=Both needs critic_values"),
    ({"responses_per_prompt": 1}, "advantage=GroupRelative compares responses.*responses_per_prompt=2 or more"),
    ({"responses_per_prompt": 1, "advantage": LeaveOneOut()}, "LeaveOneOut compares"),
    ({"responses_per_prompt": 0}, "responses_per_prompt must be a whole number of at least 1, got 0"),
    ({"sampling": Sampling(top_p=0.9)}, "top_p=0.9 draws from a filtered distribution"),
    ({"sampling": Sampling(top_k=5)}, "top_k=5"),
    ({"sampling": Sampling(temperature=0.0)}, "temperature=0"),
    ({"critic_warmup": 3}, "critic_warmup=3, but there are no critics"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_parts_that_do_not_fit_are_refused_with_one_line(tiny_policy, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        loop(tiny_policy, **changes)
    assert "\n" not in str(caught.value)


def test_more_critics_than_responses_is_refused(tiny_policy, tiny_critic):
    with pytest.raises(UsageError, match=r"more critics \(size=5\) than responses per prompt \(4\)"):
        PolicyGradient(tiny_policy, **(critic_slots(tiny_critic) | {"critics": MiniCritics(tiny_critic, size=5)}))
    PolicyGradient(tiny_policy, **(critic_slots(tiny_critic) | {"critics": MiniCritics(tiny_critic, 5, "shared")}))


def test_responses_that_the_critics_do_not_divide_are_shared_out(tiny_policy, tiny_critic):
    watch = Watch()
    changes = {"critics": MiniCritics(tiny_critic, size=3)}
    run(PolicyGradient(tiny_policy, **(critic_slots(tiny_critic) | changes)), steps=1, callbacks=[watch])
    assert {"critic_0/value_loss", "critic_1/value_loss", "critic_2/value_loss"} <= set(watch.steps[0])


def test_missing_models_are_refused_with_one_line(tiny_policy):
    with pytest.raises(UsageError, match="model folder '/nowhere/at/all' does not exist"):
        loop("/nowhere/at/all")
    with pytest.raises(UsageError, match=r"'rl4llm/nothing' is not embedded.*rl4llm/digits"):
        loop("rl4llm/nothing")
    with pytest.raises(UsageError, match="does not exist"):
        PolicyGradient(tiny_policy, **(critic_slots("./none") | {"critics": MiniCritics("./none")}))


@pytest.mark.parametrize("critics", [SymmetricCritic(), MiniCritics("rl4llm/digits-critic", aggregate="min")])
def test_other_value_sources_run(tiny_policy, critics):
    trainer = run(loop(tiny_policy, critics=critics, advantage=MonteCarlo()), steps=1)
    assert trainer.global_step == 1


def test_a_run_under_bfloat16_autocast_keeps_log_probs_in_float32(tiny_policy, tiny_critic):
    module = PolicyGradient(tiny_policy, **critic_slots(tiny_critic))
    kept = []
    original = module.composition.objective.__class__.__call__

    class Spy(PPOClip):
        def __call__(self, policy, batch):
            kept.append((policy.log_probs.dtype, batch.old_log_probs.dtype, batch.advantages.dtype))
            return original(self, policy, batch)

    object.__setattr__(module.composition, "objective", Spy())
    run(module, steps=1, precision="bf16-mixed")
    assert set(kept) == {(torch.float32,) * 3}


def test_engine_is_a_slot(tiny_policy):
    module = loop(
        tiny_policy, engine=HuggingFaceRollout(rows_at_once=5), objective=Reinforce(), aggregator=SequenceMean()
    )
    assert run(module, steps=1).global_step == 1
    assert slots()["advantage"] == GroupRelative()
