"""Our parts in verl's registries, chosen by name from its own code, and its `DataProto` as a batch."""

import os
import subprocess
import sys

import numpy
import pytest
import torch

from rl4llm.advantages import GroupRelative, LeaveOneOut
from rl4llm.bridges.verl import register_advantage, register_objective, rollout_batch
from rl4llm.checks import UsageError
from rl4llm.objectives import CISPO, PPOClip
from tests.bridges.ragged import assert_same_update, ragged

core = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed; .ci/peers installs it")
ray_trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer")
protocol = pytest.importorskip("verl.protocol")

MINE = """
from rl4llm.advantages import MaxRL
from rl4llm.bridges.verl import register_advantage, register_objective
from rl4llm.objectives import SAPO

register_advantage("maxrl", MaxRL())
register_objective("my_sapo", SAPO())
"""
WORKER = """
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
print(get_adv_estimator_fn("maxrl").estimator, get_policy_loss_fn("my_sapo").objective)
"""


def proto(batch):
    prompts = torch.cat([torch.zeros_like(batch.ids[:, :1]), batch.ids[:, :2] + 1], dim=1)
    attended = torch.cat([(prompts > 0).long(), batch.mask.long()], dim=1)
    return protocol.DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": batch.ids,
            "attention_mask": attended,
            "response_mask": batch.mask.long(),
            "token_level_rewards": batch.rewards,
            "token_level_scores": batch.rewards,
            "old_log_probs": batch.old,
            "ref_log_prob": batch.ref,
            "values": batch.values,
        },
        non_tensors={"uid": numpy.array([f"prompt {group}" for group in batch.groups.tolist()], dtype=object)},
    )


def test_verl_chooses_a_registered_estimator():
    data = proto(ragged(0))
    register_advantage("rl4llm_rloo", LeaveOneOut())
    register_advantage("rl4llm_rloo", LeaveOneOut())  # the same once more is harmless
    found = ray_trainer.compute_advantage(data, "rl4llm_rloo").batch["advantages"]
    expected = ray_trainer.compute_advantage(data, core.AdvantageEstimator.RLOO).batch["advantages"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_verl_chooses_a_registered_objective():
    batch = ragged(0)
    register_objective("rl4llm_ppo", PPOClip(dual_clip=3.0))
    given = (batch.old, batch.log_probs, batch.advantages, batch.mask)
    found, metrics = core.get_policy_loss_fn("rl4llm_ppo")(*given)
    expected = core.compute_policy_loss(*given, cliprange=0.2, clip_ratio_c=3.0)[0]
    assert_same_update(expected, found, batch)
    assert set(metrics) == {"actor/ppo_kl"}


def test_a_name_that_verl_uses_is_refused():
    with pytest.raises(UsageError, match="'vanilla'"):
        register_objective("vanilla", CISPO())
    with pytest.raises(UsageError, match="'grpo'"):
        register_advantage("grpo", GroupRelative())


def test_workers_find_what_an_external_module_registers(tmp_path):
    (tmp_path / "my_parts.py").write_text(MINE, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "VERL_USE_EXTERNAL_MODULES": "my_parts", "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, "-c", WORKER], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["MaxRL()", "SAPO(tau_positive=1.0,", "tau_negative=1.05)"]


def test_a_data_proto_is_a_batch_on_the_same_memory():
    data = proto(ragged(3))
    batch = rollout_batch(data)
    names = {"response_ids": "responses", "prompt_ids": "prompts", "rewards": "token_level_rewards"}
    names |= {"old_log_probs": "old_log_probs", "ref_log_probs": "ref_log_prob", "values": "values"}
    for ours, theirs in names.items():
        assert getattr(batch, ours).data_ptr() == data.batch[theirs].data_ptr(), ours
    assert torch.equal(batch.response_mask, data.batch["response_mask"].bool())
    assert batch.prompt_mask.sum(-1).tolist() == [2] * 8
    assert batch.group_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(batch.scores, data.batch["token_level_scores"].sum(-1))
