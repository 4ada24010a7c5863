"""Sampling with a shared prompt cache: masks, log-probs, ends, identities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, PromptBatch
from rl4llm.models import Policy, TinyQwen3
from rl4llm.rollouts import decode_responses, encode_prompts, evaluating
from tests.rollouts.helpers import generate, prompts, rollouts, said

TASK = AbsoluteDifference()


@pytest.fixture(scope="module")
def policy():
    return Policy.load("rl4llm/digits")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_engine_and_the_trainer_agree_on_log_probs_at_any_temperature(policy, temperature):
    batch = rollouts(policy, prompts("583912=", "12=", "9="), temperature=temperature)
    output = policy(batch, temperature=temperature, asks=("entropies",))
    mask = batch.response_mask
    assert (output.log_probs - batch.rollout_log_probs)[mask].abs().max() < 1e-5
    assert (output.entropies - batch.entropies)[mask].abs().max() < 1e-5
    wrong = policy(batch, temperature=temperature * 1.5).log_probs
    assert (wrong - batch.rollout_log_probs)[mask].abs().max() > 1e-3


def test_left_padding_changes_nothing(policy):
    alone = rollouts(policy, prompts("12="), n=1, temperature=0.0)
    beside = rollouts(policy, prompts("12=", "583912="), n=1, temperature=0.0)
    width = int(alone.lengths[0])
    assert torch.equal(alone.response_ids[0, :width], beside.response_ids[0, :width])
    padded = policy(beside).log_probs[0, :width]
    torch.testing.assert_close(padded, policy(alone).log_probs[0, :width], rtol=1e-4, atol=1e-5)


def test_greedy_responses_do_not_depend_on_how_many_are_generated_at_once(policy):
    batch = PromptBatch(TASK.examples("test")[0:7], TASK)
    together, apart = (rollouts(policy, batch, n=2, temperature=0.0, rows_at_once=rows) for rows in (1024, 3))
    assert decode_responses(policy, together) == decode_responses(policy, apart)
    assert torch.equal(together.group_ids, apart.group_ids)


def test_responses_of_one_prompt_stand_together_and_carry_its_identity(policy):
    batch = rollouts(policy, prompts("12=", "34="), n=3)
    assert batch.group_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.prompt_uids.tolist() == [100, 100, 100, 101, 101, 101]
    assert batch.scores.isnan().all()


def test_masks_are_made_from_lengths_even_where_pad_is_the_end_of_sequence(tmp_path):
    model, tokenizer = TinyQwen3().build()
    tokenizer.pad_token = tokenizer.eos_token
    policy = Policy(model, tokenizer)
    assert policy.pad_id in policy.end_ids
    batch = rollouts(policy, prompts("12=", "583912="), n=32, max_response_tokens=24)
    ends = batch.response_ids == policy.pad_id
    for row in range(len(batch)):
        length = int(batch.lengths[row])
        assert batch.response_mask[row, :length].all()
        assert not batch.response_mask[row, length:].any()
        inside = ends[row, :length].nonzero()[:, 0].tolist()
        assert inside == ([] if batch.truncated[row] else [length - 1])
        assert bool(batch.truncated[row]) == (length == 24 and not ends[row, length - 1])
    assert not batch.truncated.all()
    assert batch.truncated.any()


def test_every_declared_end_token_ends_a_response():
    model, tokenizer = TinyQwen3().build()
    model.generation_config.eos_token_id = [5, 6]
    policy = Policy(model, tokenizer)
    assert policy.end_ids == [1, 5, 6]
    batch = rollouts(policy, prompts("12="), n=64)
    last = batch.response_ids.gather(1, batch.lengths[:, None] - 1)[:, 0]
    assert set(last[~batch.truncated].tolist()) <= {1, 5, 6}
    assert {5, 6} & set(last.tolist())


def test_a_response_that_ends_at_the_limit_is_not_truncated():
    policy = Policy(*TinyQwen3().build())
    batch = rollouts(policy, prompts("12="), n=128, max_response_tokens=1)
    ended = batch.response_ids[:, 0] == 1
    assert ended.any()
    assert torch.equal(batch.truncated, ~ended)


def test_a_model_without_end_of_sequence_fills_every_response(policy):
    model, tokenizer = TinyQwen3().build()
    policy = Policy(model, tokenizer)
    policy.end_ids = []
    batch = rollouts(policy, prompts("12="), max_response_tokens=5)
    assert batch.truncated.all()
    assert batch.lengths.tolist() == [5] * 4


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_what_responses_have_in_common_is_computed_once(policy, temperature):
    seen = []
    forward = policy.model.forward

    def watched(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    policy.model.forward = watched
    try:
        batch = rollouts(policy, prompts("583912=", "12="), n=8, temperature=temperature)
    finally:
        del policy.model.forward
    assert seen[0] == (2, 7)
    assert all(width == 1 for _, width in seen[1:])
    drawn = list(zip(batch.prompt_uids.tolist(), batch.response_ids.tolist(), batch.lengths.tolist(), strict=True))
    going = [{(uid, *ids[:step]) for uid, ids, length in drawn if length > step} for step in range(1, len(seen))]
    assert [rows for rows, _ in seen[1:]] == [len(prefixes) for prefixes in going]  # what has ended costs nothing
    assert (max(map(len, going)) == 2) is (temperature == 0.0)


@given(st.lists(st.integers(2, 14), min_size=1, max_size=12))
def test_token_ids_are_never_decoded_and_encoded_again(ids):
    policy = Policy(*TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build())
    text = policy.tokenizer.decode(ids)
    encoded, mask = encode_prompts(policy, [text], 4)
    assert encoded[0].tolist() == ids
    assert mask.all()


def test_the_policy_leaves_the_engine_in_the_mode_it_came_in(policy):
    for training in (True, False):
        policy.train(training)
        rollouts(policy, prompts("12="))
        assert policy.training is training
        assert policy.model.training is training


def test_a_prompt_longer_than_the_context_is_refused_with_one_line(tiny_policy):
    policy = Policy.load(tiny_policy)
    with pytest.raises(UsageError, match=r"prompt of 60 tokens .* plus max_response_tokens=16 exceeds.*context of 64"):
        rollouts(policy, prompts("1" * 60))


def test_prompts_without_tokens_and_chats_without_template_are_refused(policy):
    with pytest.raises(UsageError, match="prompt '' has no tokens"):
        rollouts(policy, prompts(""))
    chat = PromptBatch([Example([{"role": "user", "content": "1"}], None, 0)], TASK)
    with pytest.raises(UsageError, match="no chat template"):
        rollouts(policy, chat)
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}="
    assert encode_prompts(policy, chat.prompts, 4)[0].tolist() == [policy.tokenizer("1=")["input_ids"]]
    policy.tokenizer.chat_template = None


# --- modes, numbers and checkpointing ---------------------------------------------------------------------------------


class BrokenError(Exception):
    pass


def test_the_mode_of_every_module_is_restored_even_where_generation_fails(policy, monkeypatch):
    def fails(*args, **kwargs):
        assert not policy.model.training
        assert not torch.is_grad_enabled()
        raise BrokenError

    policy.train()
    policy.model.model.norm.eval()  # a part that its owner keeps frozen
    monkeypatch.setattr(policy.model, "forward", fails)
    with pytest.raises(BrokenError):
        rollouts(policy, prompts("12="))
    assert policy.training
    assert policy.model.training
    assert not policy.model.model.norm.training
    assert torch.is_grad_enabled()


def test_gradients_stay_off_where_they_were_off(policy):
    with torch.no_grad():
        with evaluating(policy):
            pass
        assert not torch.is_grad_enabled()


def test_gradient_checkpointing_neither_changes_responses_nor_takes_the_cache_away():
    plain, checkpointed = Policy(*TinyQwen3().build()), Policy(*TinyQwen3().build())
    checkpointed.model.gradient_checkpointing_enable()
    checkpointed.train()
    widths, forward = [], checkpointed.model.forward

    def watched(*args, **kwargs):
        widths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    checkpointed.model.forward = watched
    expected = rollouts(plain, prompts("583912="), n=8)
    assert said(rollouts(checkpointed, prompts("583912="), n=8)) == said(expected)
    assert widths == [7] + [1] * (len(widths) - 1)


def test_a_policy_in_bfloat16_reports_log_probs_in_single_precision():
    policy = Policy(*TinyQwen3().build()).bfloat16()
    batch = rollouts(policy, prompts("583912=", "12="), n=8)
    assert batch.rollout_log_probs.dtype == torch.float32
    assert batch.rollout_log_probs[batch.response_mask].isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_not_finite_are_named_in_one_line(temperature):
    policy = Policy(*TinyQwen3().build())
    with torch.no_grad():
        policy.model.model.norm.weight[0] = torch.nan
    with pytest.raises(
        UsageError, match=r"logits are NaN or infinite in 4 of 4 responses.*earlier checkpoint"
    ) as error:
        rollouts(policy, prompts("12="), temperature=temperature)
    assert "\n" not in str(error.value)


def test_the_padding_of_prefixes_that_are_all_shorter_is_not_computed(policy):
    widths, forward = [], policy.model.forward

    def watched(*args, **kwargs):
        widths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    policy.model.forward = watched
    try:
        generate(policy, [policy.tokenizer("12=")["input_ids"]], [1], padding=9)
    finally:
        del policy.model.forward
    assert widths == [3]
