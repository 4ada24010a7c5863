"""The plan of memory counts what models, optimizers, devices and passes take, without any weight."""

import pytest
import torch

from recipes.asyppo import asyppo
from rl4llm.checks import UsageError
from rl4llm.critics import MiniCritics
from rl4llm.models import Policy, Pretrained
from rl4llm.models.outline import without_weights
from rl4llm.models.prefixes import Sequences, distinct_sequences
from rl4llm.planning import Setting, bytes_of, plan
from rl4llm.planning.passes import longest_batch
from rl4llm.planning.watch import MemoryWatch
from tests.recipes.helpers import RECIPES, cli

SETTING = Setting(prompts_per_step=2, prompt_tokens=7)


def planned(folder, critic, setting=SETTING, size=2, **options):
    with without_weights():
        critics = MiniCritics(critic, size=size)
        module = asyppo(policy=folder, critics=critics, responses_per_prompt=4, **options)
    return plan(module, setting)


def test_the_watch_counts_until_release():
    watch = MemoryWatch()
    x = watch.fake((256, 1024), torch.float32)
    with watch.peak():
        y = x + 1
        z = y * 2
        del y
        z = z + x
    assert (watch.now, watch.most) == (2 * 2**20, 3 * 2**20)


def test_models_count_with_gradients_and_two_moments(tiny_policy, tiny_critic):
    found = planned(tiny_policy, tiny_critic)
    weights = sum(p.numel() for p in Policy.load(tiny_policy).model.parameters())
    policy, *critics = found.models
    assert (policy.count, policy.trained, policy.gradients) == (weights, weights, 4 * weights)
    assert 0 <= policy.states - 8 * weights <= 1024
    assert [one.name for one in critics] == ["critic_0", "critic_1"]
    assert critics[0].parameters == critics[1].parameters < policy.parameters


def test_an_optimizer_without_state_takes_none(tiny_policy, tiny_critic):
    found = planned(tiny_policy, tiny_critic, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    assert found.models[0].states == 0


def test_sharding_divides_what_stays(tiny_policy, tiny_critic):
    alone = planned(tiny_policy, tiny_critic)
    shared = planned(tiny_policy, tiny_critic, Setting(4, sharded=True, prompts_per_step=4, prompt_tokens=7))
    for name in ("parameters", "gradients", "states"):
        assert getattr(shared.models[0], name) == getattr(alone.models[0], name) // 4
    assert all(phase.weights for phase in shared.phases if "update" not in phase.name)


def test_checkpointing_takes_fewer_activations(tiny_critic):
    long = Setting(prompts_per_step=64, prompt_tokens=7)
    whole, again = (
        next(phase for phase in found.phases if phase.name == "update of policy")
        for found in (
            planned(Pretrained("rl4llm/digits", gradient_checkpointing=chosen), tiny_critic, long)
            for chosen in (False, True)
        )
    )
    assert again.activations < whole.activations


def test_a_plan_reads_no_weights(tmp_path, tiny_policy, tiny_critic):
    policy = Policy.load(tiny_policy)
    policy.model.config.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    assert planned(str(tmp_path), tiny_critic).models == planned(tiny_policy, tiny_critic).models


@pytest.mark.parametrize("text", ["80", "80G", "GiB", "-1GiB", "nanGiB", "infGiB"])
def test_a_wrong_size_is_one_line(text):
    with pytest.raises(UsageError, match="pass one such as 80GiB"):
        bytes_of(text)


def test_the_flag_prints_the_plan_and_ends(capsys):
    with pytest.raises(SystemExit) as left:
        cli(RECIPES["grpo"], "fit", "--dry_run", "--dry_run_memory=64GiB", "--trainer.devices=2")
    said = capsys.readouterr().out
    assert not left.value.code
    assert "each of 2 devices" in said
    assert "of 65,536 MiB: it fits" in said  # with room for the Python process of the tests


def test_only_training_is_planned(capsys):
    with pytest.raises(SystemExit):
        cli(RECIPES["grpo"], "validate", "--dry_run")
    assert "run fit --dry_run" in capsys.readouterr().err


@pytest.mark.parametrize("copies", [1, 4, 7, 32])
def test_the_rows_of_a_plan_all_differ_since_equal_ones_would_run_once(copies):
    batch = longest_batch(3, copies, 5, 80)
    kinds = distinct_sequences(Sequences(batch.prompt_ids, batch.prompt_mask, batch.response_ids)).rows
    assert len(kinds) == 3 * copies
    assert batch.response_ids.unique().tolist() == list(range(min(2, copies)))
