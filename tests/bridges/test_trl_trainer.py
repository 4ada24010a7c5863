"""TRL's real `GRPOTrainer` with our parts: the same steps as its own where settings are equal, and its refusals."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl4llm.advantages import GAE, GroupRelative, LeaveOneOut
from rl4llm.bridges.trl import with_parts
from rl4llm.checks import UsageError
from rl4llm.objectives import PPOClip, SequenceMean, TokenMean

trl = pytest.importorskip("trl", reason="TRL is not installed; .ci/peers installs it")


def random_reward(completion_ids, **_):
    """A number that depends on the response alone."""
    return [None if ids[0] == 3 else float(sum(ids) % 5) for ids in completion_ids]


def built(trainer_class, folder, out, *, seed=0, **settings):
    defaults = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 0.5,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "max_steps": 2,
    }
    args = trl.GRPOConfig(
        output_dir=str(out),
        report_to=[],
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
        **{**defaults, **settings},
    )
    return trainer_class(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=random_reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [f"{number}=" for number in range(100000, 100020)]}),
    )


def weights_after(trainer):
    torch.manual_seed(0)
    trainer.train()
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def begin(folder):
    return torch.cat([weight.flatten() for weight in AutoModelForCausalLM.from_pretrained(folder).parameters()])


OF_TOKENS, OF_RESPONSES = ({"loss_type": "dapo"}, TokenMean()), ({"loss_type": "grpo"}, SequenceMean())
CASES = [
    (OF_TOKENS, {}),
    (OF_TOKENS, {"beta": 0.1, "use_bias_correction_kl": False}),
    (OF_TOKENS, {"num_iterations": 2}),
    (OF_TOKENS, {"gradient_accumulation_steps": 1, "steps_per_generation": 1}),
    (OF_RESPONSES, {"beta": 0.1, "use_bias_correction_kl": False}),
    (OF_RESPONSES, {"steps_per_generation": 4, "max_steps": 3}),
]


@pytest.mark.parametrize(("loss", "settings"), CASES)
def test_steps_with_our_parts_are_those_of_trl(loss, settings, tiny_policy, tmp_path):
    theirs, aggregator = loss
    expected = weights_after(built(trl.GRPOTrainer, tiny_policy, tmp_path, **theirs, **settings, scale_rewards="none"))
    advantage = GroupRelative(normalize_std=False)
    ours = with_parts(trl.GRPOTrainer, objective=PPOClip(), aggregator=aggregator, advantage=advantage)
    trainer = built(ours, tiny_policy, tmp_path, **settings)
    found = weights_after(trainer)
    moved = (expected - begin(tiny_policy)).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(moved))  # float32
    logged = [one for one in trainer.state.log_history if "approximate_kl" in one]
    assert logged
    assert all(one["entropy"] > 0 for one in logged)


def test_other_parts_give_other_steps(tiny_policy, tmp_path):
    first, second = (
        weights_after(built(with_parts(trl.GRPOTrainer, advantage=advantage), tiny_policy, tmp_path))
        for advantage in (GroupRelative(normalize_std=False), LeaveOneOut())
    )
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize("scale", ["none", "group"])
def test_advantages_of_trl_are_group_relative(scale, tiny_policy, tmp_path):
    parts = {"advantage": GroupRelative(normalize_std=scale == "group")}
    theirs = built(trl.GRPOTrainer, tiny_policy, tmp_path, scale_rewards=scale)
    ours = built(with_parts(trl.GRPOTrainer, **parts), tiny_policy, tmp_path)
    prompts = [{"prompt": "123456="}] * 4 + [{"prompt": "654321="}] * 4
    found = []
    for trainer in (theirs, ours):
        torch.manual_seed(1)
        trainer.model.train()
        found.append(trainer._generate_and_score_completions([dict(one) for one in prompts]))
    expected, batch = found[0]["advantages"], found[1]
    if scale == "group":  # (r − mean) / (s + 1e-4)
        groups = [batch["scores"][batch["group_ids"] == group] for group in batch["group_ids"]]
        std = torch.stack([scores[~scores.isnan()].std() for scores in groups])
        expected = expected * (std + 1e-4) / std
    assert expected.any()
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(batch["advantages"], expected[:, None] * mask, rtol=1e-5, atol=1e-6)


def test_evaluation_takes_our_loss(tiny_policy, tmp_path):
    trainer = built(with_parts(trl.GRPOTrainer), tiny_policy, tmp_path, per_device_eval_batch_size=4)
    metrics = trainer.evaluate(trainer.train_dataset.select(range(4)))
    assert metrics["eval_approximate_kl"] == 0
    assert metrics["eval_entropy"] > 0


def test_a_setting_that_would_have_no_effect_is_refused(tiny_policy, tmp_path):
    ours = with_parts(trl.GRPOTrainer, advantage=GroupRelative())
    for settings in ({"epsilon": 0.1}, {"loss_type": "grpo"}, {"scale_rewards": "none"}, {"delta": 2.0}):
        with pytest.raises(UsageError, match=f"GRPOConfig\\({next(iter(settings))}="):
            built(ours, tiny_policy, tmp_path, **settings)
    with pytest.raises(UsageError, match="use_bias_correction_kl"):
        built(ours, tiny_policy, tmp_path, beta=0.1)
    with pytest.raises(UsageError, match="steps_per_generation=3"):
        built(ours, tiny_policy, tmp_path, steps_per_generation=3)
    with pytest.raises(UsageError, match="GAE reads values"):
        with_parts(trl.GRPOTrainer, advantage=GAE())
