"""What rows have in common is computed once, with the same states, outputs and gradients as row by row."""

import warnings
from functools import partial

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from rl4llm.batch import RolloutBatch
from rl4llm.critics import SigmoidHead, TrunkCritic, ValueModel
from rl4llm.models import Policy, TinyQwen3, prefixes
from rl4llm.models.head import language_head
from rl4llm.models.policy import spread_out
from rl4llm.models.prefixes import (
    Sequences,
    distinct_prompts,
    distinct_sequences,
    prompt_states,
    response_states,
    shares_prompts,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NARROW = {"head_dim": 8, "sliding_window": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
SPECIAL = {name: SIZES[name] for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
ALIBI = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
ARCHITECTURES = {
    "Llama": SIZES,
    "Qwen2": SIZES,
    "Qwen3": SIZES | {"head_dim": 8, "tie_word_embeddings": True},
    "Mistral": SIZES | {"sliding_window": 4},
    "Gemma2": SIZES | NARROW | {"final_logit_softcapping": 3.0},
    "Gemma3Text": SIZES | NARROW,
    "Cohere": SIZES | {"logit_scale": 0.25},
    "Granite": SIZES | {"logits_scaling": 8.0},
    "GptOss": SIZES | NARROW | {"num_local_experts": 2, "num_experts_per_tok": 1},
    "GPT2": SPECIAL | GPT,
    "Bloom": SPECIAL | ALIBI,
}
KEEPS_STATES = {"Mamba": SPECIAL | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}}


def causal_lm(name, **changes):
    """A small model of random weights without dropout, in float64 throughout where that can be had, else float32."""
    config = getattr(transformers, f"{name}Config")(**(ARCHITECTURES | KEEPS_STATES)[name], **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model = model.double() if name in DOUBLE else model
    for module in model.modules():
        if name in DOUBLE and hasattr(module, "variance_epsilon"):
            module.forward = partial(wide_norm, module)
    return model


def wide_norm(norm, x):
    """RMSNorm without its cast to float32."""
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)


DOUBLE = {"Llama", "Qwen2", "Qwen3", "Mistral", "Granite", "GPT2"}


def close(name, one, other):
    """To 1e-10 in float64; in float32 to 1e-5 of the largest number of the tensor, or of 1 if all are smaller."""
    tolerance = 1e-10 if name in DOUBLE else 1e-5
    largest = max(1.0, float(other.detach().abs().max()))
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * largest)


def a_batch(copies=(3, 1, 2, 4), widest=7, time=6, seed=0, dtype=torch.float64, tokens=12):
    """Ragged prompts with several responses in no order, ragged responses with a hole, of so many different tokens."""
    random = torch.Generator().manual_seed(seed)
    group_ids = torch.arange(len(copies)).repeat_interleave(torch.tensor(copies))
    group_ids = group_ids[torch.randperm(len(group_ids), generator=random)]
    rows = len(group_ids)
    prompts = torch.randint(3, 15, (len(copies), widest), generator=random)
    lengths = torch.randint(1, widest + 1, (len(copies), 1), generator=random)
    mask = torch.arange(time) < torch.randint(1, time + 1, (rows, 1), generator=random)
    mask[::2, 1:2] = False
    zeros = torch.zeros(rows, time, dtype=dtype)
    return RolloutBatch(
        prompt_ids=prompts[group_ids],
        prompt_mask=(torch.arange(widest) >= widest - lengths)[group_ids],
        response_ids=torch.randint(3, 3 + tokens, (rows, time), generator=random),
        response_mask=mask,
        group_ids=group_ids,
        prompt_uids=group_ids,
        scores=torch.zeros(rows, dtype=dtype),
        truncated=torch.zeros(rows, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
        top_ids=torch.randint(3, 15, (rows, time, 3), generator=random),
        top_log_probs=zeros[..., None].expand(-1, -1, 3),
    )


def gradients(model, weighted):
    model.zero_grad()
    weighted.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def noise(shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_rows(monkeypatch):
    """Turn sharing off."""
    monkeypatch.setattr(prefixes, "shares_prompts", lambda trunk: False)
    monkeypatch.setattr(prefixes, "_distinct", lambda rows: prefixes.Distinct(*[torch.arange(len(rows))] * 2))


REPEATED = [{"tokens": 1}, {"tokens": 2, "time": 3}]  # all responses to a prompt are alike, or some are


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("options", [{}, {"time": 1}, {"copies": (2, 2)}, {"copies": (9,), "widest": 1}, *REPEATED])
def test_states_and_gradients_are_those_of_whole_rows(monkeypatch, name, options):
    trunk, batch = causal_lm(name).base_model, a_batch(**options)
    assert shares_prompts(trunk)
    monkeypatch.setattr(prefixes, "LEAST_SAVED", 0.0)
    shared = response_states(trunk, batch) * batch.response_mask[..., None]
    weights = noise(shared.shape).to(shared.dtype)
    of_shared = gradients(trunk, (shared * weights).sum())
    by_rows(monkeypatch)
    rows = response_states(trunk, batch) * batch.response_mask[..., None]
    close(name, shared, rows)
    for one, other in zip(of_shared, gradients(trunk, (rows * weights).sum()), strict=True):
        close(name, one, other)


def test_each_distinct_prompt_runs_once(monkeypatch):
    trunk, batch = causal_lm("Qwen3").base_model, a_batch(copies=(3, 1, 2, 4))
    assert shares_prompts(trunk)
    seen = []
    trunk.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    response_states(trunk, batch)
    assert seen == [(4, 7), (10, 5)]
    seen.clear()
    prompt_states(trunk, batch)
    assert seen == [(4, 7)]
    seen.clear()
    response_states(trunk, a_batch(copies=(1, 1, 1)))  # nothing to share: one pass
    assert seen == [(3, 12)]


def test_equal_prompts_are_one_whatever_their_padding_holds():
    ids = torch.tensor([[9, 5, 6], [8, 5, 6], [5, 5, 6], [7, 7, 6]])
    mask = torch.tensor([[False, True, True], [False, True, True], [True, True, True], [False, False, True]])
    rows, places = distinct_prompts(ids, mask)
    assert torch.equal(places[0], places[1])
    assert len(places.unique()) == len(rows) == 3
    assert sorted(rows.tolist()) == [0, 2, 3]
    assert all(places[row] == place for place, row in enumerate(rows))


def test_rows_with_the_same_tokens_run_once():
    trunk, seen = causal_lm("Qwen3").base_model, []
    assert shares_prompts(trunk)
    trunk.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    response_states(trunk, a_batch(copies=(3, 1, 2, 4), tokens=1))
    assert seen == [(4, 12)]  # no prompt is left to share, so it is one pass
    seen.clear()
    batch = a_batch(copies=(3, 1, 2, 4))
    copied = batch.select(torch.tensor([*range(10), 4, 7, 4]))
    response_states(trunk, copied)
    assert seen == [(4, 7), (10, 5)]


def test_the_last_token_makes_no_row_another_and_every_other_does():
    ids, mask = torch.tensor([[9, 5]] * 5), torch.tensor([[False, True]] * 5)
    ids[1, 0], ids[2, 1] = 8, 6
    responses = torch.tensor([[3, 4, 1], [3, 4, 2], [3, 4, 1], [3, 5, 1], [2, 4, 1]])
    rows, places = distinct_sequences(Sequences(ids, mask, responses))
    assert sorted(rows.tolist()) == [0, 2, 3, 4]
    assert places[0] == places[1]
    assert all(places[row] == place for place, row in enumerate(rows))


def test_a_model_that_shares_no_prompts_runs_equal_rows_once(monkeypatch):
    trunk, seen = causal_lm("Mamba").base_model, []
    trunk.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    batch = a_batch(tokens=1)
    once = response_states(trunk, batch)
    by_rows(monkeypatch)
    torch.testing.assert_close(response_states(trunk, batch), once)
    assert seen == [4, 10]


# --- what falls back ------------------------------------------------------------------------------------------------


OBSTACLE = "(takes no cache|keeps more state than keys and values)"  # transformers 5.24 gives Mamba's state to `cache`


def test_a_model_that_keeps_states_computes_rows_and_says_so_once():
    trunk, batch = causal_lm("Mamba").base_model, a_batch()
    with pytest.warns(UserWarning, match=f"MambaModel {OBSTACLE}, so every prompt is computed again"):
        states = response_states(trunk, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = response_states(trunk, batch)
    torch.testing.assert_close(again, states)


def test_a_model_that_goes_on_from_a_cache_to_other_numbers_is_found_out():
    class Forgetful(transformers.Qwen3Model):
        def forward(self, *args, past_key_values=None, cache=None, **kwargs):
            return super().forward(*args, **kwargs)

    trunk = Forgetful(causal_lm("Qwen3").config).double().eval()
    with pytest.warns(UserWarning, match="Forgetful "):
        assert not shares_prompts(trunk)


def test_checkpointed_activations_and_shared_prompts_exclude_each_other():
    trunk, batch = causal_lm("Llama").base_model.train(), a_batch()
    expected = response_states(trunk, batch)
    trunk.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.warns(UserWarning, match="LlamaModel recomputes activations in backward, so every prompt"):
        assert not shares_prompts(trunk)
    torch.testing.assert_close(response_states(trunk, batch), expected)


# --- the policy and its head ----------------------------------------------------------------------------------------

ASKS = ("entropies", "logsumexp", "values", "top_log_probs")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("options", [{}, {"tokens": 2, "time": 3}])
def test_all_that_a_policy_says_is_what_its_logits_say(monkeypatch, name, options):
    model, batch = causal_lm(name), a_batch(**options)
    policy = Policy(model, TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()[1])
    TrunkCritic(head=SigmoidHead(), head_scale=1.0).build("", policy)
    policy.to(next(model.parameters()).dtype)
    assert language_head(model) is not None
    outputs = [policy(batch, temperature=0.7, asks=ASKS)]
    by_rows(monkeypatch)
    outputs.append(policy(batch, temperature=0.7, asks=ASKS))
    monkeypatch.setattr("rl4llm.models.policy.language_head", lambda model: None)
    outputs.append(policy(batch, temperature=0.7, asks=ASKS))
    for field in ("log_probs", *ASKS):
        first, *others = (getattr(output, field) for output in outputs)
        for other in others:
            close(name, other, first)
    weights, named = noise((4, *batch.response_ids.shape)), ("log_probs", *ASKS[:3])
    sums = [sum((w * getattr(o, n)).sum() for w, n in zip(weights, named, strict=True)) for o in outputs]
    first, *others = [gradients(policy, total) for total in sums]
    for other in others:
        for one, two in zip(first, other, strict=True):
            close(name, two, one)


def test_a_head_that_does_more_is_not_imitated():
    class Biased(transformers.Qwen3ForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + torch.arange(output.logits.shape[-1])
            return output

    model = Biased(causal_lm("Qwen3").config).double().eval()
    tokenizer = TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()[1]
    batch = a_batch()
    with pytest.warns(UserWarning, match="Biased computes its logits in a way that rl4llm does not know"):
        found = Policy(model, tokenizer)(batch).log_probs
    plain = Policy(causal_lm("Qwen3"), tokenizer)(batch).log_probs
    assert not torch.allclose(found, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(Policy(model, tokenizer)(batch).log_probs, found)


def test_a_trial_leaves_the_model_as_it_was():
    model = causal_lm("Llama").train()
    state = torch.get_rng_state()
    assert language_head(model) is not None
    assert shares_prompts(model.base_model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_numbers_of_trained_tokens_are_spread_out_with_their_gradient():
    mask = torch.tensor([[True, False], [True, True]])
    numbers = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    whole = spread_out(numbers, mask)
    assert whole.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    (whole * torch.tensor([[5.0, 6.0], [7.0, 8.0]])).sum().backward()
    assert numbers.grad.tolist() == [5.0, 7.0, 8.0]


# --- critics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", ["prefix", "prompt"])
@pytest.mark.parametrize("options", [{}, *REPEATED])
def test_values_and_their_gradients_are_those_of_whole_rows(monkeypatch, inputs, options):
    critic = ValueModel(causal_lm("Qwen3").base_model, inputs=inputs).double()
    batch = a_batch(**options)
    values = critic(batch)
    shared = values.detach(), gradients(critic, values.square().sum())
    by_rows(monkeypatch)
    values = critic(batch)
    torch.testing.assert_close(shared[0], values.detach(), rtol=1e-10, atol=1e-10)
    for one, two in zip(shared[1], gradients(critic, values.square().sum()), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-10)


def test_in_single_precision_it_is_rounding():
    critic, batch = ValueModel(causal_lm("Llama").base_model.float()), a_batch(dtype=torch.float32)
    shared = critic(batch)
    rows = torch.cat([critic(batch.select(torch.tensor([row]))) for row in range(len(batch))])
    torch.testing.assert_close(shared, rows, rtol=1e-5, atol=1e-5)


def test_nothing_is_read_of_a_sequence_beyond_what_the_head_needs():
    projected = []
    model = causal_lm("Qwen3")
    policy = Policy(model, TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()[1])
    language_head(model)
    assert isinstance(model.lm_head, nn.Linear)
    model.lm_head.register_forward_hook(lambda *_: projected.append(1))
    policy(a_batch())
    assert not projected


def test_the_trials_run_without_autocast():
    """Under bfloat16 both ways may differ by its rounding, which says nothing about the model."""
    model, seen = causal_lm("Llama").float(), []
    model.base_model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert shares_prompts(model.base_model)
        assert language_head(model) is not None
    assert seen == [False] * 5
