"""Loading, the policy's log-probs and the critics' values."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rl4llm.checks import UsageError
from rl4llm.critics import ValueModel
from rl4llm.models import Policy, TinyQwen3, check_model, resolve_model
from rl4llm.testing.strategies import rollouts


def a_batch(batch=5, time=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(time) < torch.randint(1, time + 1, (batch, 1), generator=generator)
    zeros = torch.zeros(batch, time)
    from rl4llm.batch import RolloutBatch

    return RolloutBatch(
        prompt_ids=torch.randint(2, 15, (batch, 4), generator=generator),
        prompt_mask=torch.arange(4) >= torch.randint(0, 4, (batch, 1), generator=generator),
        response_ids=torch.randint(2, 15, (batch, time), generator=generator),
        response_mask=mask,
        group_ids=torch.arange(batch),
        prompt_uids=torch.arange(batch),
        scores=torch.zeros(batch),
        truncated=torch.zeros(batch, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
    )


@pytest.fixture(scope="module")
def policy():
    return Policy(*TinyQwen3(hidden_size=32, layers=2, heads=2, key_value_heads=1, head_size=16).build())


def test_embedded_models_are_ordinary_hugging_face_folders():
    for name in ("rl4llm/digits", "rl4llm/digits-critic"):
        folder = resolve_model(name)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(tokenizer("583912=(30986)6")["input_ids"]) == "583912=(30986)6"
        assert model.config.model_type == "qwen3"
    assert sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(resolve_model("rl4llm/digits")).parameters()
    ) > 2.5 * (sum(p.numel() for p in model.parameters()))


def test_a_saved_policy_loads_equal(policy, tmp_path):
    policy.save(tmp_path)
    loaded = Policy.load(str(tmp_path))
    assert torch.equal(loaded(a_batch()).log_probs, policy(a_batch()).log_probs)
    assert loaded.end_ids == policy.end_ids
    assert loaded.pad_id == policy.pad_id


def test_log_probs_equal_those_of_the_plain_model_row_by_row(policy):
    batch = a_batch()
    output = policy(batch, temperature=0.7, asks=("entropies", "logsumexp"))
    for row in range(len(batch)):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row]]
        length = int(batch.lengths[row])
        response = batch.response_ids[row, :length]
        logits = policy.model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = torch.log_softmax(logits, -1)
        torch.testing.assert_close(output.log_probs[row, :length], expected.gather(1, response[:, None])[:, 0])
        torch.testing.assert_close(output.entropies[row, :length], -(expected.exp() * expected).sum(-1))
        torch.testing.assert_close(output.logsumexp[row, :length], logits.logsumexp(-1))
        assert not output.log_probs[row, length:].any()


def test_values_are_those_of_the_prefix_and_never_see_their_own_token(policy):
    value = ValueModel(TinyQwen3(hidden_size=16, layers=1, heads=2, key_value_heads=1, head_size=8).build()[0].model)
    batch = a_batch()
    values = value(batch)
    assert values.shape == batch.response_mask.shape
    assert not values[~batch.response_mask].any()
    for t in range(batch.response_mask.shape[1]):
        changed = batch.response_ids.clone()
        changed[:, t] = (changed[:, t] - 1) % 13 + 2
        moved = (value(batch.replace(response_ids=changed)) - values).abs() > 1e-7
        assert not moved[:, : t + 1].any()
        if t + 1 < moved.shape[1]:
            assert moved[:, t + 1][batch.response_mask[:, t + 1]].all()
    for row in range(len(batch)):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row]]
        first = value.head(value.backbone(prompt[None]).last_hidden_state[0, -1])
        torch.testing.assert_close(values[row, :1], first)


def test_heads_differ_between_critics_and_bases_do_not():
    from rl4llm.critics import MiniCritics

    ensemble = MiniCritics(size=3).build("rl4llm/digits")
    heads = [critic.head.affine.weight for critic in ensemble.critics]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    for a, b in zip(ensemble.critics[0].backbone.parameters(), ensemble.critics[1].backbone.parameters(), strict=True):
        assert torch.equal(a, b)
    assert ensemble(a_batch()).shape == (3, 5, 6)


def test_a_batch_without_response_columns_gives_empty_results(policy):
    batch = a_batch(time=1)
    empty = batch.replace(**{n: t[:, :0] for n, t in batch.tensors().items() if t.shape == (5, 1)})
    assert policy(empty).log_probs.shape == (5, 0)


def test_other_architectures_load_through_the_same_path(tmp_path):
    tokenizer = TinyQwen3().build()[1]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, attention_dropout=0.5, max_position_embeddings=64, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    Policy(LlamaForCausalLM(config), tokenizer).save(tmp_path)
    policy = Policy.load(str(tmp_path)).train()
    policy.model.train()
    assert torch.equal(policy(a_batch()).log_probs, policy(a_batch()).log_probs)
    assert ValueModel.load(str(tmp_path))(a_batch()).shape == (5, 6)


def test_left_padding_moves_no_position():
    """Seen on learned positions: rotary ones would hide a constant shift."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = TinyQwen3().build()[1]
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, eos_token_id=1)
    policy, batch = Policy(GPT2LMHeadModel(config).eval(), tokenizer), a_batch()
    pad = torch.nn.functional.pad
    wider = batch.replace(prompt_ids=pad(batch.prompt_ids, (3, 0)), prompt_mask=pad(batch.prompt_mask, (3, 0)))
    torch.testing.assert_close(policy(wider).log_probs, policy(batch).log_probs)


def test_tool_output_inside_a_response_is_seen_and_not_trained(policy):
    batch = a_batch()
    mask = torch.ones_like(batch.response_mask)
    mask[:, 2] = False
    batch = batch.replace(response_mask=mask)
    before = policy(batch).log_probs
    other = batch.response_ids.clone()
    other[:, 2] = 3
    after = policy(batch.replace(response_ids=other)).log_probs
    assert not before[:, 2].any()
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 1e-6
    torch.testing.assert_close(before[:, :3], after[:, :3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "model folder '/no/such/folder' does not exist"),
        ("./no", "does not exist"),
        ("rl4llm/other", "not embedded in the package; the embedded models are rl4llm/digits, rl4llm/digits-critic"),
    ],
)
def test_missing_models_are_one_line(name, message):
    with pytest.raises(UsageError, match=message):
        check_model(name)


def test_a_folder_without_config_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"has no config\.json"):
        check_model(str(tmp_path))


def test_tiny_models_refuse_impossible_sizes():
    with pytest.raises(UsageError, match="layers must be a whole number"):
        TinyQwen3(layers=0)
    with pytest.raises(UsageError, match="characters must differ"):
        TinyQwen3(characters="11")
    assert rollouts() is not None
