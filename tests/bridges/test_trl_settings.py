"""The settings of TRL on the page From TRL or verl give the update of ours, by TRL's own loss."""

from collections import defaultdict
from types import SimpleNamespace

import pytest

from rl4llm.batch import PolicyOutput
from rl4llm.bridges.trl import rollout_batch
from rl4llm.gates import HighEntropy
from rl4llm.masked import keep
from rl4llm.objectives import PPOClip, TokenMean
from tests.bridges.ragged import assert_same_update, of_trl, ragged
from tests.bridges.settings import TRL_LOSSES, TRL_LOSSES_ON_POLICY, keywords, policy_loss

trl = pytest.importorskip("trl", reason="TRL is not installed; .ci/peers installs it")


def trainer_of(batch, **settings):
    """What `_compute_loss` reads of a trainer: one process, one microbatch per step."""
    args = trl.GRPOConfig(output_dir="unused", report_to=[], use_cpu=True, bf16=False, **settings)
    accelerator = SimpleNamespace(
        num_processes=1, sync_gradients=True, gather=lambda x: x, reduce=lambda x, reduction: x
    )
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    return SimpleNamespace(
        args=SimpleNamespace(**{**vars(args), "steps_per_generation": 1}),
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        epsilon_low=args.epsilon,
        epsilon_high=high,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=args.entropy_coef != 0,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (batch.log_probs, batch.entropies, None),
        get_high_entropy_mask=None,
        **{
            name: getattr(args, name)
            for name in (
                *("loss_type", "beta", "importance_sampling_level", "top_entropy_quantile", "use_vllm"),
                *("off_policy_mask_threshold", "vllm_importance_sampling_correction", "max_completion_length"),
                "entropy_coef",
            )
        },
    )


def compare(theirs, ours, batch):
    inputs = of_trl(batch)
    their_loss = trl.GRPOTrainer._compute_loss(trainer_of(batch, **keywords(theirs)), None, inputs)
    our_loss = policy_loss(ours)(PolicyOutput(batch.log_probs, entropies=batch.entropies), rollout_batch(inputs))
    assert_same_update(their_loss, our_loss, batch)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("theirs", "ours"), TRL_LOSSES, ids=[theirs for theirs, _ in TRL_LOSSES])
def test_a_loss_of_trl_is_ours(theirs, ours, seed):
    compare(theirs, ours, ragged(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("theirs", "ours"), TRL_LOSSES_ON_POLICY)
def test_a_loss_of_trl_is_ours_until_the_policy_moves(theirs, ours, seed):
    batch = ragged(seed)
    compare(theirs, ours, batch._replace(old=batch.log_probs.detach()))
    with pytest.raises(AssertionError, match="not close"):
        compare(theirs, ours, batch)


@pytest.mark.parametrize("seed", range(20))
def test_top_entropy_quantile_is_high_entropy(seed):
    batch = ragged(seed)
    rounded = batch.entropies.detach().float().double().requires_grad_()  # TRL's quantile is taken in float32
    batch = batch._replace(entropies=rounded)
    inputs, quantile = of_trl(batch), 0.25
    trainer = trainer_of(batch, loss_type="dapo", top_entropy_quantile=quantile)
    trainer.accelerator.pad_across_processes = lambda x, **_: x
    trainer.get_high_entropy_mask = lambda *given: trl.GRPOTrainer.get_high_entropy_mask(trainer, *given)
    ours = rollout_batch(inputs).replace(entropies=batch.entropies.detach())
    kept = HighEntropy(fraction=1 - quantile)(ours)
    losses = keep(PPOClip()(PolicyOutput(batch.log_probs), ours), kept)
    assert 0 < kept.sum() < batch.mask.sum()
    assert_same_update(trl.GRPOTrainer._compute_loss(trainer, None, inputs), TokenMean()(losses, batch.mask), batch)
