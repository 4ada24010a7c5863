"""Sampling with a shared prompt cache: masks, log-probs, ends, identities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, Example, PromptBatch
from rl4llm.models import Policy, TinyQwen3
from rl4llm.rollouts import HuggingFaceRollout, Sampling, decode_responses, encode_prompts
from rl4llm.rollouts.sampling import draw

TASK = AbsoluteDifference()


@pytest.fixture(scope="module")
def policy():
    return Policy.load("rl4llm/digits")


def prompts(*texts):
    return PromptBatch([Example(text, None, index + 100) for index, text in enumerate(texts)], TASK)


def generate(policy, batch, n=4, seed=0, rows_at_once=1024, **sampling):
    generator = torch.Generator().manual_seed(seed)
    engine = HuggingFaceRollout(rows_at_once=rows_at_once)
    return engine(policy, batch, responses_per_prompt=n, sampling=Sampling(**sampling), generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_engine_and_the_trainer_agree_on_log_probs_at_any_temperature(policy, temperature):
    batch = generate(policy, prompts("583912=", "12=", "9="), temperature=temperature)
    output = policy(batch, temperature=temperature, asks=("entropies",))
    mask = batch.response_mask
    assert (output.log_probs - batch.rollout_log_probs)[mask].abs().max() < 1e-5
    assert (output.entropies - batch.entropies)[mask].abs().max() < 1e-5
    wrong = policy(batch, temperature=temperature * 1.5).log_probs
    assert (wrong - batch.rollout_log_probs)[mask].abs().max() > 1e-3


def test_left_padding_changes_nothing(policy):
    alone = generate(policy, prompts("12="), n=1, temperature=0.0)
    beside = generate(policy, prompts("12=", "583912="), n=1, temperature=0.0)
    width = int(alone.lengths[0])
    assert torch.equal(alone.response_ids[0, :width], beside.response_ids[0, :width])
    padded = policy(beside).log_probs[0, :width]
    torch.testing.assert_close(padded, policy(alone).log_probs[0, :width], rtol=1e-4, atol=1e-5)


def test_greedy_responses_do_not_depend_on_how_many_are_generated_at_once(policy):
    batch = PromptBatch(TASK.examples("test")[0:7], TASK)
    together, apart = (generate(policy, batch, n=2, temperature=0.0, rows_at_once=rows) for rows in (1024, 3))
    assert decode_responses(policy, together) == decode_responses(policy, apart)
    assert torch.equal(together.group_ids, apart.group_ids)


def test_responses_of_one_prompt_stand_together_and_carry_its_identity(policy):
    batch = generate(policy, prompts("12=", "34="), n=3)
    assert batch.group_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.prompt_uids.tolist() == [100, 100, 100, 101, 101, 101]
    assert batch.scores.isnan().all()


def test_masks_are_made_from_lengths_even_where_pad_is_the_end_of_sequence(tmp_path):
    model, tokenizer = TinyQwen3().build()
    tokenizer.pad_token = tokenizer.eos_token
    policy = Policy(model, tokenizer)
    assert policy.pad_id in policy.end_ids
    batch = generate(policy, prompts("12=", "583912="), n=32, max_response_tokens=24)
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
    batch = generate(policy, prompts("12="), n=64)
    last = batch.response_ids.gather(1, batch.lengths[:, None] - 1)[:, 0]
    assert set(last[~batch.truncated].tolist()) <= {1, 5, 6}
    assert {5, 6} & set(last.tolist())


def test_a_response_that_ends_at_the_limit_is_not_truncated():
    policy = Policy(*TinyQwen3().build())
    batch = generate(policy, prompts("12="), n=128, max_response_tokens=1)
    ended = batch.response_ids[:, 0] == 1
    assert ended.any()
    assert torch.equal(batch.truncated, ~ended)


def test_a_model_without_end_of_sequence_fills_every_response(policy):
    model, tokenizer = TinyQwen3().build()
    policy = Policy(model, tokenizer)
    policy.end_ids = []
    batch = generate(policy, prompts("12="), max_response_tokens=5)
    assert batch.truncated.all()
    assert batch.lengths.tolist() == [5] * 4


def test_the_prompt_is_computed_once_and_shared_by_its_responses(policy):
    seen = []
    forward = policy.model.forward

    def watched(*args, **kwargs):
        seen.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    policy.model.forward = watched
    try:
        batch = generate(policy, prompts("583912=", "12="), n=8)
    finally:
        del policy.model.forward
    assert seen[0] == (2, 7)
    assert all(width == 1 for _, width in seen[1:])
    still_going = [(batch.lengths > step).sum().item() for step in range(1, len(seen))]
    assert [rows for rows, _ in seen[1:]] == still_going  # rows that have ended cost nothing more


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
        generate(policy, prompts("12="))
        assert policy.training is training
        assert policy.model.training is training


def test_the_same_generator_gives_the_same_responses(policy):
    first, again, other = (generate(policy, prompts("12="), n=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.response_ids, again.response_ids)
    assert first.response_ids.shape != other.response_ids.shape or not torch.equal(
        first.response_ids, other.response_ids
    )


def test_a_prompt_longer_than_the_context_is_refused_with_one_line(tiny_policy):
    policy = Policy.load(tiny_policy)
    with pytest.raises(UsageError, match=r"prompt of 60 tokens .* plus max_response_tokens=16 exceeds.*context of 64"):
        generate(policy, prompts("1" * 60))


def test_prompts_without_tokens_and_chats_without_template_are_refused(policy):
    with pytest.raises(UsageError, match="prompt '' has no tokens"):
        generate(policy, prompts(""))
    chat = PromptBatch([Example([{"role": "user", "content": "1"}], None, 0)], TASK)
    with pytest.raises(UsageError, match="no chat template"):
        generate(policy, chat)
    policy.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}="
    assert encode_prompts(policy, chat.prompts, 4)[0].tolist() == [policy.tokenizer("1=")["input_ids"]]
    policy.tokenizer.chat_template = None


LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])


def test_filters_keep_the_likeliest_tokens():
    log_probs = torch.log_softmax(LOGITS, -1)
    assert Sampling(top_k=2).filter(log_probs).isfinite().tolist() == [[True, True, False, False, False]]
    probabilities = log_probs.exp()[0]
    border = float(probabilities[:2].sum())
    assert Sampling(top_p=border - 1e-3).filter(log_probs).isfinite().sum() == 2
    assert Sampling(top_p=border + 1e-3).filter(log_probs).isfinite().sum() == 3
    assert Sampling(top_p=1e-6).filter(log_probs).isfinite().sum() == 1
    assert torch.equal(Sampling().filter(log_probs), log_probs)


def test_draws_follow_the_tempered_distribution():
    generator = torch.Generator().manual_seed(0)
    tokens, log_probs, entropy, *_ = draw(LOGITS.expand(20_000, -1), Sampling(temperature=2.0), generator)
    expected = torch.softmax(LOGITS[0] / 2.0, -1)
    torch.testing.assert_close(torch.bincount(tokens, minlength=5) / 20_000, expected, atol=0.015, rtol=0)
    torch.testing.assert_close(log_probs, expected.log()[tokens])
    torch.testing.assert_close(entropy[0], torch.distributions.Categorical(expected).entropy())


def test_log_probs_are_of_the_whole_vocabulary_whatever_the_filter():
    generator = torch.Generator().manual_seed(0)
    tokens, log_probs, *_ = draw(LOGITS.expand(100, -1), Sampling(top_k=2), generator)
    assert set(tokens.tolist()) == {0, 1}
    torch.testing.assert_close(log_probs, torch.log_softmax(LOGITS[0], -1)[tokens])


def test_greedy_takes_the_likeliest_token():
    assert draw(LOGITS, Sampling(temperature=0.0), torch.Generator())[0].tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, r"temperature must be in \[0, inf\), got -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"max_response_tokens": 0}, "max_response_tokens must be"),
    ],
)
def test_sampling_refuses_impossible_values(options, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**options)
