"""Critics over one frozen model: each is a critic with LoRA, no gradient leaves its own adapter and head."""

import copy

import lightning
import pytest
import torch
from torch.optim import AdamW

from rl4llm.advantages import GAE
from rl4llm.algorithms.building import build_optimizer
from rl4llm.algorithms.meter import Meter
from rl4llm.critics import (
    AdapterCritics,
    BoundedHead,
    ClippedValueLoss,
    ExplainedVarianceSwitch,
    HistogramHead,
    LinearHead,
    MiniCritics,
    Privileged,
    QuantileHead,
    Readiness,
    SigmoidHead,
    SpreadBlend,
    Tether,
)
from rl4llm.models import LoRA, Policy, Pretrained
from rl4llm.models.prefixes import shares_prompts
from tests.algorithms.helpers import Watch, collected, critic_slots, loop, run, some_prompts
from tests.models.architectures import CONFIGS, saved_architecture
from tests.models.test_adapters import away_from_zero
from tests.models.test_models import a_batch

LOW = LoRA(rank=2)
MONTE_CARLO = GAE(gamma=1.0, lam=1.0, lam_returns=1.0)


def away(ensemble):
    """The critics with adapters that change what they compute, each in its own way."""
    for seed, critic in enumerate(ensemble.critics):
        away_from_zero(critic, seed)
    return ensemble


def owned(critic):
    return {name: weight for name, weight in critic.named_parameters() if weight.requires_grad}


def frozen(critic):
    return {name: weight for name, weight in critic.named_parameters() if not weight.requires_grad}


def in_loop(tiny_policy, critics, **changes):
    return loop(tiny_policy, **critic_slots("") | {"critics": critics} | changes)


@pytest.fixture
def pair(tiny_critic):
    return away(AdapterCritics(tiny_critic, LOW, head_scale=1.0).build(""))


# --- one model ------------------------------------------------------------------------------------------------------


def test_all_critics_hold_the_same_frozen_tensors_and_nothing_else_in_common(pair):
    one, other = pair.critics
    assert frozen(one)
    assert all(weight is frozen(other)[name] for name, weight in frozen(one).items())
    assert not {id(weight) for weight in owned(one).values()} & {id(weight) for weight in owned(other).values()}
    assert all("lora_" in name or name.startswith("head.") for name in owned(one))


def test_cast_critics_still_share_one_model(pair):
    pair.to(torch.bfloat16)
    one, other = pair.critics
    assert all(weight is frozen(other)[name] for name, weight in frozen(one).items())
    assert {weight.dtype for weight in frozen(one).values()} == {torch.bfloat16}
    assert pair(a_batch()).isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_memory_is_that_of_one_model_and_so_many_adapters_and_heads(tiny_critic, size):
    ensemble = AdapterCritics(tiny_critic, LOW, size).build("")
    trunk = sum(weight.numel() for weight in MiniCritics(tiny_critic, 1).build("").critics[0].backbone.parameters())
    own = sum(weight.numel() for weight in owned(ensemble.critics[0]).values())
    tensors = {weight.data_ptr(): weight.numel() for weight in ensemble.parameters()}
    assert sum(tensors.values()) == trunk + size * own
    assert own < trunk / 3
    for name, critic in ensemble.learners.items():
        optimizer = build_optimizer(name, AdamW, critic)
        critic(a_batch()).sum().backward()
        optimizer.step()
        assert sum(state["exp_avg"].numel() for state in optimizer.state.values()) == own


def test_a_gradient_stays_in_its_own_adapter_and_head(pair):
    one, other = pair.critics
    one(a_batch()).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in owned(one).values())
    assert all(weight.grad is None for weight in [*frozen(one).values(), *other.parameters()])


def test_values_and_gradients_of_all_critics_at_once_are_those_of_each_alone(pair):
    batch, alone = a_batch(), copy.deepcopy(pair)
    together = pair(batch)
    together.square().sum().backward()
    for index, critic in enumerate(alone.critics):
        values = critic(batch)
        values.square().sum().backward()
        torch.testing.assert_close(values, together[index])
        for name, weight in owned(critic).items():
            torch.testing.assert_close(weight.grad, pair.critics[index].get_parameter(name).grad)
    assert not torch.allclose(together[0], together[1])


def test_activations_computed_again_are_those_of_the_right_adapter(tiny_critic):
    def gradients(checkpointing):
        base = Pretrained(tiny_critic, gradient_checkpointing=checkpointing)
        ensemble = away(AdapterCritics(base, LOW, head_scale=1.0).build(""))
        assert shares_prompts(ensemble.critics[0].backbone) is not checkpointing
        ensemble(a_batch()).square().sum().backward()
        return {name: weight.grad for name, weight in ensemble.named_parameters() if weight.requires_grad}

    kept = gradients(False)
    with pytest.warns(UserWarning, match="recomputes activations"):
        again = gradients(True)
    assert kept
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


# --- the start ------------------------------------------------------------------------------------------------------


def test_critics_start_with_the_states_of_the_model_and_other_heads_and_adapters(tiny_critic):
    ensemble = AdapterCritics(tiny_critic, LOW, 3).build("")
    plain = MiniCritics(tiny_critic, 3).build("")
    torch.testing.assert_close(ensemble(a_batch()), plain(a_batch()))
    first = [owned(critic) for critic in ensemble.critics]
    for name, weight in first[0].items():
        same = "lora_B" in name or name.endswith("bias")
        assert all(torch.equal(weight, other[name]) == same for other in first[1:]), name
    assert not torch.equal(*(owned(critic)["head.affine.weight"] for critic in ensemble.critics[:2]))


def test_seeds_make_the_start(tiny_critic):
    def start(**seeds):
        ensemble = AdapterCritics(tiny_critic, LoRA(rank=2, seed=seeds.pop("adapter", 0)), **seeds).build("")
        return {name: weight for name, weight in ensemble.named_parameters() if weight.requires_grad}

    def differing(a, b):
        return {name.split(".")[-3 if "lora" in name else -2] for name in a if not torch.equal(a[name], b[name])}

    assert not differing(start(), start())
    assert differing(start(), start(adapter=7)) == {"lora_A"}
    assert differing(start(), start(seed=7)) == {"affine"}


# --- a critic with LoRA ---------------------------------------------------------------------------------------------


def test_one_critic_is_a_mini_critic_with_lora(tiny_policy, tiny_critic):
    base = Pretrained(tiny_critic, adapter=LOW)
    pairs = AdapterCritics(tiny_critic, LOW, 1), MiniCritics(base, 1)
    modules = [in_loop(tiny_policy, critics) for critics in pairs]
    for module in modules:
        run(module, steps=2)
    ours, theirs = (module.critics.state_dict() for module in modules)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])
    torch.testing.assert_close(modules[0].policy.state_dict(), modules[1].policy.state_dict())


def test_training_moves_every_adapter_and_head_and_no_frozen_weight(tiny_policy, tiny_critic):
    module, watch = in_loop(tiny_policy, AdapterCritics(tiny_critic, LOW)), Watch()
    before = {name: weight.clone() for name, weight in module.critics.named_parameters()}
    run(module, steps=2, callbacks=[watch])
    for name, weight in module.critics.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name
    one, other = module.critics.critics
    assert not torch.equal(owned(one)["head.affine.weight"], owned(other)["head.affine.weight"])
    assert watch.steps[-1]["critic_0/value_loss"] != watch.steps[-1]["critic_1/value_loss"]


@pytest.mark.parametrize("head", [LinearHead(), BoundedHead(), SigmoidHead(), HistogramHead(), QuantileHead(count=5)])
def test_every_head_learns(tiny_policy, tiny_critic, head):
    inputs = "prompt" if head == SigmoidHead() else "prefix"
    critics = AdapterCritics(tiny_critic, LOW, head=head, inputs=inputs, shards="shared", aggregate="min")
    module = in_loop(tiny_policy, critics, advantage=MONTE_CARLO)
    before = {name: weight.clone() for name, weight in module.critics.named_parameters()}
    run(module, steps=2)
    for name, weight in module.critics.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name


@pytest.mark.parametrize("around", [Tether, SpreadBlend, ExplainedVarianceSwitch, Readiness, Privileged])
def test_other_value_sources_stand_around_them(tiny_policy, tiny_critic, around):
    changes = {"truncation": "bootstrap"} if around is Readiness else {}
    critics = around(AdapterCritics(tiny_critic, LOW, loss=ClippedValueLoss()))
    module = in_loop(tiny_policy, critics, **changes)
    run(module, steps=1)
    assert set(module.critics.learners) == {"critic_0", "critic_1"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_shares_its_weights_and_its_prompts(name, tmp_path):
    folder = saved_architecture(name, tmp_path)
    ensemble = away(AdapterCritics(folder, LOW, head_scale=1.0).build(""))
    one, other = ensemble.critics
    assert all(weight is frozen(other)[name] for name, weight in frozen(one).items())
    assert ensemble.shares_prompts
    batch = a_batch()
    repeated = batch.select(torch.tensor([0, 0, 0, 1, 1]))
    shared = ensemble(repeated)
    alone = torch.stack([ensemble(repeated.select(torch.tensor([row])))[:, 0] for row in range(5)], dim=1)
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)


# --- checkpoints ----------------------------------------------------------------------------------------------------


class Saving(lightning.Callback):
    """Saves a checkpoint after so many rollout batches."""

    def __init__(self, path, after):
        self.path, self.after = str(path), after

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step == self.after:
            trainer.save_checkpoint(self.path)


def test_a_run_goes_on_from_its_checkpoint_exactly(tiny_policy, tiny_critic, tmp_path):
    path, critics = tmp_path / "half.ckpt", AdapterCritics(tiny_critic, LOW)
    straight, resumed = in_loop(tiny_policy, critics), in_loop(tiny_policy, critics)
    run(straight, steps=4, callbacks=[Saving(path, 2)])
    run(resumed, steps=4, ckpt_path=str(path))
    for name, weight in straight.named_parameters():
        assert torch.equal(weight, resumed.get_parameter(name)), name
    one, other = resumed.critics.critics
    assert all(weight is frozen(other)[name] for name, weight in frozen(one).items())
    saved_names = torch.load(path, weights_only=True)["state_dict"]
    expected = {
        f"critics.critics.{index}.{name}" for index, critic in enumerate((one, other)) for name in owned(critic)
    }
    assert {name for name in saved_names if name.startswith("critics.")} == expected


# --- the policy's own model -----------------------------------------------------------------------------------------


@pytest.fixture
def on_policy(tiny_policy):
    return in_loop(Pretrained(tiny_policy, adapter=LOW), AdapterCritics(None, LoRA(rank=3)))


def test_critics_on_the_policys_model_add_adapters_and_heads_alone(on_policy):
    policy = {id(weight) for weight in on_policy.policy.parameters()}
    added = [weight for weight in on_policy.critics.parameters() if id(weight) not in policy]
    assert added
    assert {id(weight) for weight in added} == {
        id(weight) for critic in on_policy.critics.critics for weight in owned(critic).values()
    }


def test_policy_and_critics_learn_side_by_side_on_one_model(on_policy):
    before = {name: weight.clone() for name, weight in on_policy.named_parameters()}
    run(on_policy, steps=2)
    for name, weight in on_policy.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name


def test_neither_policy_nor_critics_read_the_others_adapter(on_policy):
    prompts = some_prompts(2)
    batch = collected(on_policy, prompts).batch
    log_probs = on_policy.policy(batch).log_probs
    values = on_policy.critics(batch)
    away_from_zero(on_policy.policy.model)
    assert torch.equal(on_policy.critics(batch), values)
    changed = on_policy.policy(batch).log_probs
    assert not torch.allclose(changed, log_probs)
    away(on_policy.critics)
    assert not torch.allclose(on_policy.critics(batch), values)
    assert torch.equal(on_policy.policy(batch).log_probs, changed)
    assert on_policy.value_context(on_policy.runtime(), prompts, Meter()) is not None


def test_they_are_the_critics_of_the_policys_folder(tiny_policy):
    policy = Policy.load(Pretrained(tiny_policy, adapter=LOW))
    away_from_zero(policy.model)
    beside = AdapterCritics(None, LOW).build(Pretrained(tiny_policy, adapter=LOW), policy)
    apart = AdapterCritics(tiny_policy, LOW).build("", None)
    assert torch.equal(away(beside)(a_batch()), away(apart)(a_batch()))
