"""A sequence classifier as a reward: tiny ones with random weights."""

import sys

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from rl4llm.checks import UsageError
from rl4llm.rewards import RewardModel, Scoring, WeightedSum

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")
CHAT = "{% for m in messages %}{{ m.content }}={% endfor %}"


def classifier(folder, policy, labels=1, chat=None):
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = chat
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        num_labels=labels,
    )
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def by_hand(folder, texts, label=0):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForSequenceClassification.from_pretrained(folder).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        return torch.stack([model(**tokenizer(text, return_tensors="pt")).logits[0, label] for text in texts])


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_scores_are_those_of_the_classifier_whatever_the_batch(tmp_path, tiny_policy, batch_size):
    folder = classifier(tmp_path, tiny_policy)
    prompts, responses = ["12=", "3=", "4567="], ["(1)1", "", "()77"]
    expected = by_hand(folder, [p + r for p, r in zip(prompts, responses, strict=True)])
    scorer = Scoring(workers=0).build()
    found = scorer.score(RewardModel(folder, batch_size=batch_size), prompts, responses, [None] * 3)
    torch.testing.assert_close(found.scores, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = scorer.score(RewardModel(folder, batch_size=batch_size), prompts, responses, [None] * 3)
    assert again.scores.tolist() == found.scores.tolist()


def test_the_chat_template_writes_prompt_and_response(tmp_path, tiny_policy):
    folder = classifier(tmp_path, tiny_policy, labels=3, chat=CHAT)
    chat = [{"role": "system", "content": "1"}, {"role": "user", "content": "2"}]
    found = [RewardModel(folder, label=2)(prompt, "34", None) for prompt in ("12", chat)]
    torch.testing.assert_close(torch.tensor(found), by_hand(folder, ["12=34=", "1=2=34="], label=2))


def test_a_response_beyond_the_context_costs_itself(tmp_path, tiny_policy):
    reward = WeightedSum({"model": RewardModel(classifier(tmp_path, tiny_policy), max_tokens=4)}, correct=None)
    scorer = Scoring(workers=1).build()
    found = scorer.score(reward, ["1="] * 2, ["2", "234567"], [None] * 2)
    scorer.close()
    assert found.scores.isnan().tolist() == [False, True]
    assert found.problems == {
        "component 'model' is too long for the reward model, for example 8 tokens of at most 4": 1
    }


def test_what_is_no_classifier_is_one_line(tmp_path, tiny_policy):
    with pytest.raises(UsageError, match=r"holds no config.json; pass the folder of a sequence classifier"):
        RewardModel(str(tmp_path))
    with pytest.raises(UsageError, match=r"holds Qwen3ForCausalLM; pass the folder of a sequence classifier"):
        RewardModel(tiny_policy)
    folder = classifier(tmp_path, tiny_policy, labels=3)
    with pytest.raises(UsageError, match="has 3 outputs; name the one to use with label"):
        RewardModel(folder)
    with pytest.raises(UsageError, match=r"label is 3, and .* has 3 outputs, from 0 on"):
        RewardModel(folder, label=3)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UsageError, match=r"config.json' cannot be read"):
        RewardModel(folder, label=1)


def test_pickled_weights_are_not_read(tmp_path, tiny_policy):
    folder = classifier(tmp_path / "a", tiny_policy)
    weights = tmp_path / "a" / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, tmp_path / "a" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match=r"RewardModel: .* cannot be loaded"):
        Scoring(workers=0).build().score(RewardModel(folder, batch_size=3), ["1"], ["1"], [None])
