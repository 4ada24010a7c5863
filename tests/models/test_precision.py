"""Narrow weights and recomputed activations change neither the numbers' type nor what is computed."""

import pytest
import torch
from transformers import DynamicCache

from rl4llm.critics import MiniCritics, TrunkCritic, ValueModel
from rl4llm.critics.layers import Float32Linear
from rl4llm.models import Policy, Pretrained, load_backbone
from rl4llm.models.loading import cache_argument
from tests.models.folders import saved
from tests.models.test_models import a_batch

ASKS = ("entropies", "logsumexp", "values", "top_log_probs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), hidden_size=32)


def with_top(batch):
    return batch.replace(top_ids=batch.response_ids[..., None].repeat(1, 1, 2))


def outputs(policy, batch):
    output = policy(with_top(batch), asks=ASKS)
    return {"log_probs": output.log_probs} | {name: getattr(output, name) for name in ASKS}


def policy_with_head(source):
    policy = Policy.load(source)
    TrunkCritic(head_scale=1.0).build(source, policy)
    return policy


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("way", ["described", "cast", "autocast"])
def test_everything_comes_out_in_float32_and_close(folder, dtype, way):
    wide, batch, narrow = policy_with_head(folder), a_batch(), getattr(torch, dtype)
    expected = outputs(wide, batch)
    expected["critic"] = ValueModel.load(folder)(batch)
    policy = policy_with_head(Pretrained(folder, dtype=dtype) if way == "described" else folder)
    critic = ValueModel.load(Pretrained(folder, dtype=dtype) if way == "described" else folder)
    if way == "cast":  # what Lightning's bf16-true does to a whole module
        policy, critic = policy.to(narrow), critic.to(narrow)
    if way != "autocast":
        assert policy.model.dtype == critic.backbone.dtype == narrow
    with torch.autocast("cpu", narrow, enabled=way == "autocast"):
        found = outputs(policy, batch)
        found["critic"] = critic(batch)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32, name
        torch.testing.assert_close(
            tensor, expected[name], atol=0.05, rtol=0.05, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("time", [0, 6])
def test_a_narrow_default_type_narrows_no_result(folder, time):
    """Under bf16-true Lightning makes bfloat16 the default type while a step runs."""
    policy, critic, batch = policy_with_head(folder), ValueModel.load(folder), a_batch()
    if time == 0:
        batch = batch.replace(**{n: t[:, :0] for n, t in batch.tensors().items() if t.shape == (5, 6)})
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert policy(batch, asks=("values", "entropies")).values.dtype == torch.float32
        assert policy(batch, asks=("values", "entropies")).log_probs.dtype == torch.float32
        assert critic(batch).dtype == torch.float32
        assert MiniCritics(folder).build(folder).critics[0].head.affine.weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_head_keeps_float32_through_every_cast():
    head = Float32Linear(8, 1)
    before, identity = head.weight.detach().clone(), id(head.weight)
    for cast in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.to("cpu", torch.bfloat16)):
        cast(torch.nn.Sequential(head))
        assert torch.equal(head.weight, before)
        assert id(head.weight) == identity
    assert head.double().weight.dtype == torch.float64
    hidden = torch.randn(3, 8).bfloat16()
    expected = torch.nn.functional.linear(hidden.float(), head.float().weight, head.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(hidden), expected)


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def test_checkpointed_gradients_are_those_of_kept_activations(folder):
    batch, found = a_batch(), []
    for checkpointing in (False, True):
        source = Pretrained(folder, gradient_checkpointing=checkpointing)
        policy, critic = Policy.load(source).train(), ValueModel.load(source).train()
        assert policy.model.is_gradient_checkpointing is critic.backbone.is_gradient_checkpointing is checkpointing
        found.append(
            (gradients(policy, policy(batch).log_probs.sum()), gradients(critic, critic(batch).square().sum()))
        )
    for kept, recomputed in zip(*found, strict=True):
        assert kept.keys() == recomputed.keys()
        for name in kept:
            torch.testing.assert_close(recomputed[name], kept[name])


def test_checkpointing_keeps_fewer_activations(folder):
    def kept(source):
        total = []
        critic = ValueModel.load(source).train()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.numel()) or t, lambda t: t):
            critic(a_batch())
        return sum(total)

    assert kept(Pretrained(folder, gradient_checkpointing=True)) < kept(folder) / 2


def test_generation_keeps_its_cache_under_checkpointing(folder):
    """In train mode transformers drops the cache of a checkpointed model; whoever generates calls eval()."""
    batch, found = a_batch(), []
    for checkpointing in (False, True):
        policy = Policy.load(Pretrained(folder, gradient_checkpointing=checkpointing)).eval()
        cache = DynamicCache(config=policy.model.config)
        given = {cache_argument(policy.model): cache, "use_cache": True}
        with torch.no_grad():
            policy.model(input_ids=batch.prompt_ids, **given)
            logits = policy.model(input_ids=batch.response_ids[:, :1], **given).logits
        assert cache.get_seq_length() == batch.prompt_ids.shape[1] + 1
        found.append(logits)
    assert torch.equal(*found)


def test_a_narrow_critic_learns_through_its_float32_head(folder):
    critic = ValueModel.load(Pretrained(folder, dtype="bfloat16", gradient_checkpointing=True)).train()
    found = gradients(critic, critic(a_batch()).square().sum())
    assert found["head.affine.weight"].dtype == torch.float32
    assert found["backbone.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert all(gradient.any() for gradient in found.values())
    assert load_backbone(Pretrained(folder, dtype="bfloat16")).dtype == torch.bfloat16
