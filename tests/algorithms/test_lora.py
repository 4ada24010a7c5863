"""The loop with adapters: what is trained, saved and compared is the adapter; the model underneath is held once."""

import pytest
import torch

from rl4llm.advantages import GAE
from rl4llm.algorithms import Updates, compose
from rl4llm.checks import UsageError
from rl4llm.critics import SymmetricCritic, TrunkCritic
from rl4llm.models import LoRA, Policy, Pretrained, reference_of
from rl4llm.models.adapters import engine_weights
from rl4llm.regularizers import KLPenalty, ValueRegression
from rl4llm.rollouts import HuggingFaceRollout, Sampling
from rl4llm.rollouts.hugging_face import HuggingFaceEngine
from tests.algorithms.helpers import critic_slots, run, slots
from tests.models.test_adapters import away_from_zero
from tests.models.test_models import a_batch

KL = {"kl": KLPenalty(0.1)}


def adapted(folder, **choices):
    return Pretrained(folder, adapter=LoRA(rank=2, **choices))


def loop(policy, critic=None, **changes):
    given = slots() if critic is None else critic_slots(critic)
    return compose(policy, **{**given, **changes})


def state(module):
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def changed(before, module):
    return {name for name, weight in module.named_parameters() if not torch.equal(before[name], weight)}


def test_adapters_and_heads_are_trained_and_nothing_else(tiny_policy, tiny_critic):
    module = loop(adapted(tiny_policy), adapted(tiny_critic))
    before = state(module)
    trainer = run(module, steps=2)
    found = changed(before, module)
    assert found == {name for name in before if "lora_" in name or ".head." in name}
    optimized = [p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in optimized) == sum(before[name].numel() for name in found)


BESIDE = [(SymmetricCritic(), {}), (TrunkCritic(), {"value": ValueRegression()})]


@pytest.mark.parametrize(("critics", "regularizers"), BESIDE, ids=["symmetric", "trunk"])
def test_critics_from_the_policys_own_model_work_beside_an_adapter(critics, regularizers, tiny_policy):
    module = loop(adapted(tiny_policy), critics=critics, regularizers=regularizers, advantage=GAE())
    before = state(module)
    run(module, steps=2)
    found = changed(before, module)
    assert any("head.affine" in name for name in found)
    assert any("policy.model.model.layers" in name for name in found)
    assert all("lora_" in name or "head.affine" in name for name in found)


def test_a_policy_without_a_trained_weight_is_one_line(tiny_policy):
    policy = Policy.load(tiny_policy)
    policy.model.requires_grad_(False)
    with pytest.raises(UsageError, match="policy has no weight that is trained"):
        run(loop(policy), steps=1)


# --- the reference --------------------------------------------------------------------------------------------------


def test_the_reference_is_the_adapter_switched_off_and_takes_no_memory(tiny_policy):
    module = loop(adapted(tiny_policy), regularizers=KL)
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in module.policy.parameters())
    assert not any(name.startswith("reference") for name in module.state_dict())
    base = Policy.load(tiny_policy)(a_batch()).log_probs
    run(module, steps=2)
    policy = module.policy(a_batch()).log_probs
    assert torch.equal(module.reference(a_batch()).log_probs, base)
    assert torch.equal(module.policy(a_batch()).log_probs, policy)
    assert not torch.equal(policy, base)
    assert dict(module.reference.weights()).keys() == dict(base_weights(tiny_policy)).keys()
    assert all(torch.equal(dict(module.reference.weights())[name], w) for name, w in base_weights(tiny_policy))


def base_weights(folder):
    return Policy.load(folder).model.named_parameters(remove_duplicate=False)


def test_the_loop_with_the_adapter_switched_off_is_the_loop_with_a_copy(tiny_policy):
    """The same numbers as with a second model in memory, made by hand."""

    def trained(copied):
        module = loop(adapted(tiny_policy), regularizers=KL, updates=Updates(minibatches=2, warmup_steps=0))
        if copied:
            module.reference = Policy.load(tiny_policy).requires_grad_(False)
        trainer = run(module, steps=3)
        return state(module.policy), trainer.callback_metrics["penalty/kl"]

    (one, kl), (other, expected) = trained(False), trained(True)
    assert kl == expected > 0
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_policy_without_adapter_keeps_its_copy(tiny_policy):
    module = loop(tiny_policy, regularizers=KL)
    assert any(name.startswith("reference.") for name in module.state_dict())
    assert not any(p.requires_grad for p in module.reference.parameters())


def test_an_adapter_that_computes_from_the_start_is_its_own_reference(tiny_policy):
    policy = Policy.load(adapted(tiny_policy))
    away_from_zero(policy.model)
    first = policy(a_batch()).log_probs
    module = loop(policy, regularizers=KL)
    assert torch.equal(module.reference(a_batch()).log_probs, first)
    run(module, steps=2)
    assert torch.equal(module.reference(a_batch()).log_probs, first)
    assert not torch.equal(module.policy(a_batch()).log_probs, first)
    assert any("reference" in name for name in module.state_dict())


def test_a_moving_reference_becomes_the_policy_at_its_interval(tiny_policy):
    module = loop(adapted(tiny_policy), regularizers=KL, reference_interval=2)
    seen = []
    remember = module._remember

    def spy(batch):
        remember(batch)
        seen.append([p(a_batch()).log_probs.detach() for p in (module.policy, module.reference)])

    module._remember = spy
    base = Policy.load(tiny_policy)(a_batch()).log_probs
    run(module, steps=3)
    assert torch.equal(seen[0][1], base)
    assert torch.equal(seen[1][1], seen[1][0])
    assert torch.equal(seen[2][1], seen[1][0])
    assert not torch.equal(seen[2][0], seen[2][1])


def drawn(policy):
    ids = torch.tensor([[4, 5, 6]])
    engine, sampling = HuggingFaceRollout().build(policy), Sampling(max_response_tokens=6)
    engine.sync(policy.weights(), 0)
    return engine.generate(
        ids, ids > 0, torch.tensor([6]), copies=8, sampling=sampling, seeds=torch.tensor([3])
    ).log_probs


def test_an_engine_draws_with_the_adapter_and_one_of_the_reference_without(tiny_policy, tmp_path):
    policy = Policy.load(adapted(tiny_policy))
    reference = reference_of(policy, adapted(tiny_policy), moves=False)
    away_from_zero(policy.model)
    policy.save(tmp_path)
    torch.testing.assert_close(drawn(policy), drawn(Policy.load(str(tmp_path))), atol=1e-5, rtol=0)
    assert torch.equal(drawn(reference), drawn(Policy.load(tiny_policy)))
    assert not torch.equal(drawn(policy), drawn(reference))


class Recording(HuggingFaceEngine):
    """Keeps the weights of every sync, as an engine with a model of its own would."""

    received = ()

    def sync(self, weights, version):
        self.received = [(name, weight.clone()) for name, weight in weights]
        super().sync(self.received, version)


def test_an_engine_receives_whole_merged_weights_under_plain_names(tiny_policy):
    module = loop(adapted(tiny_policy))
    module.engine = Recording(module.policy)
    run(module, steps=2)
    assert [name for name, _ in module.engine.received] == [name for name, _ in engine_weights(module.policy.model)]
    module.engine = Recording(module.policy)
    module.answering().sync(9)
    fresh = Policy.load(tiny_policy)
    with torch.no_grad():
        for name, weight in module.engine.received:
            fresh.model.get_parameter(name).copy_(weight)
    found, expected = fresh(a_batch()).log_probs, module.policy(a_batch()).log_probs
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected - Policy.load(tiny_policy)(a_batch()).log_probs).abs().max() > 1e-4


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_loaded_checkpoint_brings_adapters_heads_and_the_moved_reference(tiny_policy, tiny_critic, tmp_path):
    def made():
        return loop(adapted(tiny_policy), adapted(tiny_critic), regularizers=KL, reference_interval=2)

    first, second = made(), made()
    run(first, steps=3).save_checkpoint(tmp_path / "last.ckpt")
    assert changed(state(second), first)
    second.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert not changed(state(second), first)
    found, expected = (module.reference(a_batch()).log_probs for module in (second, first))
    assert torch.equal(found, expected)
    assert not torch.equal(found, Policy.load(tiny_policy)(a_batch()).log_probs)


def test_a_checkpoint_holds_adapters_and_heads_and_not_the_models(tiny_policy, tiny_critic, tmp_path):
    module = loop(adapted(tiny_policy), adapted(tiny_critic))
    run(module, steps=1).save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    weights = [name for name in saved if isinstance(saved[name], torch.Tensor)]
    assert weights
    assert all("lora_" in name or ".head." in name for name in weights)
    with pytest.raises(RuntimeError, match="lora_A"):
        loop(adapted(tiny_policy), adapted(tiny_critic)).load_state_dict(
            {name: value for name, value in saved.items() if "lora_A" not in name}
        )


def test_an_adapter_of_other_weights_is_not_resumed(tiny_policy, tiny_critic, tmp_path):
    run(loop(adapted(tiny_policy)), steps=1).save_checkpoint(tmp_path / "last.ckpt")
    other = Policy.load(tiny_policy)
    torch.nn.init.normal_(other.model.model.embed_tokens.weight)
    other.save(tmp_path / "other")
    with pytest.raises(UsageError, match=r"adapters belong to other weights than those of --model.policy"):
        run(loop(adapted(str(tmp_path / "other"))), steps=2, ckpt_path=tmp_path / "last.ckpt")


def test_what_does_not_fit_is_refused_before_anything_is_loaded(tiny_policy, monkeypatch):
    monkeypatch.setattr("rl4llm.models.loading.load_weights", lambda *_: pytest.fail("weights were read"))
    wrong = adapted(tiny_policy, targets=["x"])
    for policy, critic in ((wrong, tiny_policy), (tiny_policy, wrong)):
        with pytest.raises(UsageError, match="no linear layer named 'x'"):
            loop(policy, critic)
