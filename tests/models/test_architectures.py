"""Five architectures with random weights through AsyPPO: training, evaluation, resume, LoRA, and a saved folder."""

import pytest
import torch

from recipes.asyppo import asyppo
from rl4llm.critics import ValueModel
from rl4llm.models import LoRA, Policy, Pretrained
from rl4llm.models.head import language_head
from rl4llm.models.prefixes import shares_prompts
from tests.models.architectures import CONFIGS, saved_architecture
from tests.models.test_adapters import away_from_zero
from tests.models.test_models import a_batch
from tests.recipes.helpers import SHORT, cli

ADAPTERS = ["--model.policy.adapter=LoRA", "--model.critics.model.adapter=LoRA", "--model.kl_reward=KLReward"]

NIGHTLY = ("gemma3", "llama", "phi3")
RUNS = [
    *(pytest.param(name, ADAPTERS, marks=[pytest.mark.slow] * (name in NIGHTLY)) for name in CONFIGS),
    ("gemma3", []),
]
TINY = ["--model.sampling.max_response_tokens=6", "--data.task.held_out_size=2", "--model.scoring.workers=0"]


@pytest.fixture(params=CONFIGS)
def name(request):
    torch.manual_seed(0)
    return request.param


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "LoRA"])
def test_an_architecture_shares_prompts_and_needs_no_full_logits(name, adapter, tmp_path):
    source = Pretrained(saved_architecture(name, tmp_path), adapter=adapter)
    policy = Policy.load(source)
    away_from_zero(policy.model)
    assert policy.shares_prompts
    head = language_head(policy.model)
    assert head is not None
    assert (head.soft_cap is not None) is (name == "gemma3")
    assert shares_prompts(ValueModel.load(source).backbone)


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "LoRA"])
def test_recomputed_activations_give_the_same_gradient(name, adapter, tmp_path):
    folder, found = saved_architecture(name, tmp_path), []
    for checkpointing in (False, True):
        policy = Policy.load(Pretrained(folder, gradient_checkpointing=checkpointing, adapter=adapter))
        away_from_zero(policy.model)
        with pytest.warns(UserWarning, match="recomputes activations") if checkpointing else torch.enable_grad():
            assert policy.shares_prompts is not checkpointing
        policy(a_batch()).log_probs.sum().backward()
        found.append({n: weight.grad for n, weight in policy.named_parameters() if weight.grad is not None})
    kept, recomputed = found
    assert kept.keys() == recomputed.keys() != set()
    for weight in kept:
        torch.testing.assert_close(recomputed[weight], kept[weight], atol=1e-5, rtol=1e-4)


def fit(root, *flags):
    return cli(asyppo, "fit", *SHORT, *TINY, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={root}", *flags)


def parameters(module):
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


@pytest.mark.long
@pytest.mark.parametrize(("name", "flags"), RUNS, ids=lambda x: x if isinstance(x, str) else "LoRA" if x else "full")
def test_a_run_resumes_exactly_is_evaluated_and_leaves_a_folder_that_reloads(name, flags, tmp_path):
    torch.manual_seed(0)
    model = saved_architecture(name, tmp_path / "model")
    flags = [f"--model.policy.name={model}", f"--model.critics.model.name={model}", *flags]
    whole = fit(tmp_path / "whole", *flags, "--trainer.max_steps=3", "--trainer.val_check_interval=3").model
    fit(tmp_path / "cut", *flags)
    resumed = fit(tmp_path / "cut", "--ckpt_path=last", "--trainer.max_steps=3").model
    expected, found = parameters(whole), parameters(resumed)
    assert all(torch.equal(expected[n], found[n]) for n in expected)
    folder = tmp_path / "cut" / "asyppo" / "version_0"
    log_probs = resumed.policy(a_batch()).log_probs
    assert not torch.equal(log_probs, Policy.load(model)(a_batch()).log_probs)
    torch.testing.assert_close(Policy.load(str(folder / "policy"))(a_batch()).log_probs, log_probs, atol=1e-5, rtol=0)
    again = cli(asyppo, "validate", *flags, f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}", *SHORT[3:], *TINY)
    assert torch.equal(again.model.policy(a_batch()).log_probs, log_probs)
    assert (folder / "policy" / "adapter").exists() is (len(flags) > 2)
