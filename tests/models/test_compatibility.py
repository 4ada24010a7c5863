"""Policy and critic are compared before anything is loaded."""

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from rl4llm.checks import UsageError
from rl4llm.critics import MiniCritics, SymmetricCritic, ValueModel
from rl4llm.models import Policy, Pretrained, check_compatible, check_context
from tests.models.folders import copied, saved, tiny, with_permuted_tokenizer
from tests.models.test_models import a_batch


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("policy"), context=64)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("weights were read")

    for loader in (AutoModel, AutoModelForCausalLM):
        monkeypatch.setattr(loader, "from_pretrained", refuse)


def check(policy, critic):
    MiniCritics(critic).check(policy, 8)


def test_a_critic_of_the_same_vocabulary_passes(policy, tmp_path):
    check(policy, policy)
    check(policy, saved(tmp_path, hidden_size=8))
    check("rl4llm/digits", "rl4llm/digits-critic")
    check(Pretrained("rl4llm/digits", layers=2), Pretrained("rl4llm/digits", layers=1))


def test_a_critic_that_knows_fewer_ids_is_one_line(policy, tmp_path):
    critic = saved(tmp_path, characters="0123456789=")
    with pytest.raises(UsageError, match=r"knows 13 ids, but the tokenizer of the policy, model '.*', gives 16"):
        check(policy, critic)


def test_a_critic_that_knows_more_ids_passes(policy, tmp_path):
    check(policy, saved(tmp_path, characters="0123456789=().+-"))


def test_a_critic_whose_ids_stand_for_other_tokens_is_one_line(policy, tmp_path):
    critic = with_permuted_tokenizer(copied(policy, tmp_path / "critic"))
    with pytest.raises(UsageError, match=r"reads id 3 as '2', the policy, model '.*', writes it for '1'"):
        check(policy, critic)


def test_a_critic_without_tokenizer_is_one_line(policy, tmp_path):
    critic = copied(policy, tmp_path / "critic")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (critic / name).unlink()
    with pytest.raises(UsageError, match=r"comes without a tokenizer"):
        check(policy, str(critic))


def test_objects_are_compared_as_well(policy):
    small, tokenizer = tiny(characters="01")
    with pytest.raises(UsageError, match=r"knows 4 ids, but the tokenizer of the policy"):
        check_compatible(policy, small)
    model, tokenizer = tiny()
    check_compatible(Policy(model, tokenizer), tiny(hidden_size=8)[0])
    with pytest.raises(UsageError, match=r"reads id 2 as"):
        check_compatible(Policy(model, tokenizer), Policy(*tiny(characters="9876543210=().")))


def test_the_context_is_compared_with_what_is_asked_of_it(policy, tmp_path):
    critic = saved(tmp_path, context=16)
    check(policy, critic)
    MiniCritics(critic).check_context(16)
    with pytest.raises(UsageError, match=r"critics' base, model '.*', has a context of 16 tokens, but .* may take 17;"):
        MiniCritics(critic).check_context(17)
    check_context(policy, 64)
    with pytest.raises(UsageError, match=r"the policy, model '.*', has a context of 64 tokens"):
        check_context(policy, 65)
    SymmetricCritic().check_context(10**9)


def test_a_model_without_a_declared_context_has_no_limit():
    check_context(BloomForCausalLM(BloomConfig(vocab_size=15, hidden_size=16, n_layer=1, n_head=2)), 10**9)


def test_a_critic_never_reads_past_its_context():
    """Padding on the left takes no position, so only the longest row counts."""
    batch = a_batch()
    longest = int((batch.prompt_mask.sum(-1) + batch.response_ids.shape[1] - 1).max())
    wide = torch.nn.functional.pad
    batch = batch.replace(prompt_ids=wide(batch.prompt_ids, (9, 0)), prompt_mask=wide(batch.prompt_mask, (9, 0)))
    ValueModel(tiny(context=longest)[0].model)(batch)
    with pytest.raises(UsageError, match=rf"context of {longest - 1} tokens, but .* take {longest}"):
        ValueModel(tiny(context=longest - 1)[0].model)(batch)
