"""The slots beyond the classic loop: replay, constraints, corrections, shared value heads, references that move."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from rl4llm.advantages import GAE, CorrectnessRelative, SegmentMonteCarlo, SingleStream
from rl4llm.algorithms import Updates
from rl4llm.corrections import Correction, TruncatedImportance
from rl4llm.critics import BetaTracker, MonteCarloValues, TrunkCritic
from rl4llm.objectives import (
    ImportanceWeighted,
)
from rl4llm.regularizers import Constrained, EntropyBonus, RatioPenalty, ValueRegression
from rl4llm.replay import FIFOReplay
from rl4llm.rewards import OverlongPenalty
from rl4llm.rollouts import DynamicSampling, HuggingFaceRollout
from rl4llm.segments import FixedTokens
from tests.algorithms.helpers import TASK, Seen, Watch, loop, run

ONE_STEP = Updates(minibatches=1, warmup_steps=0, schedule="constant")


# --- replay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("updates", [ONE_STEP, Updates(minibatches=2, warmup_steps=0)])
def test_replayed_rows_keep_the_log_probs_of_the_policy_that_made_them(tiny_policy, updates, trust):
    seen = Seen()
    options = {"replay": FIFOReplay(capacity=64, share=0.5), "trust_rollout_log_probs": trust}
    run(loop(tiny_policy, objective=seen, updates=updates, **options), steps=3)
    replayed = [batch.select(batch.replayed) for batch in seen.batches if batch.replayed.any()]
    assert replayed
    for batch in replayed:
        mask = batch.response_mask
        torch.testing.assert_close(batch.old_log_probs[mask], batch.rollout_log_probs[mask], atol=2e-5, rtol=0)
    moved = [
        (output.log_probs.detach() - batch.old_log_probs)[batch.replayed][batch.response_mask[batch.replayed]].abs()
        for batch, output in zip(seen.batches, seen.outputs, strict=True)
        if batch.replayed.any()
    ]
    assert torch.cat(moved).max() > 1e-3


def test_fresh_and_replayed_responses_share_the_update_as_asked(tiny_policy):
    seen = Seen()
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, replay=FIFOReplay(capacity=64, share=0.5)), steps=3)
    assert [int(batch.replayed.sum()) for batch in seen.batches] == [0, 12, 12]
    assert [len(batch) for batch in seen.batches] == [12, 24, 24]


def test_replay_survives_a_checkpoint_bit_for_bit(tiny_policy, tmp_path):
    options = {"replay": FIFOReplay(capacity=64), "objective": ImportanceWeighted()}
    options["regularizers"] = {"variance": Constrained(RatioPenalty(), limit=0.0, lr=1.0)}
    first = loop(tiny_policy, **options)
    run(first, steps=2).save_checkpoint(tmp_path / "last.ckpt")
    second = loop(tiny_policy, **options)
    second.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert len(second.replay) == len(first.replay) > 0
    for a, b in zip(first.replay.units, second.replay.units, strict=True):
        assert torch.equal(a.rows.old_log_probs, b.rows.old_log_probs)
        assert torch.equal(a.rows.response_ids, b.rows.response_ids)
    assert second.duals["variance"].multiplier == first.duals["variance"].multiplier > 0.04


# --- constraints ----------------------------------------------------------------------------------------------------


def test_a_constraint_is_a_penalty_whose_weight_moves_with_every_step(tiny_policy):
    fixed = {"regularizers": {"variance": RatioPenalty(coef=0.5)}}
    held = {"regularizers": {"variance": Constrained(RatioPenalty(), limit=0.0, initial=0.5, lr=0.0)}}
    moving = {"regularizers": {"variance": Constrained(RatioPenalty(), limit=0.0, initial=0.5, lr=5.0)}}
    weights = []
    for options in (fixed, held, moving):
        module = loop(tiny_policy, objective=ImportanceWeighted(), updates=Updates(epochs=3, warmup_steps=0), **options)
        run(module, steps=2)
        weights.append(torch.cat([p.detach().flatten() for p in module.policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert module.duals["variance"].multiplier > 0.5


def test_the_multiplier_is_logged(tiny_policy):
    seen = Watch()
    module = loop(tiny_policy, regularizers={"variance": Constrained(RatioPenalty(), limit=0.0)})
    run(module, steps=2, callbacks=[seen])
    assert seen.steps[-1]["penalty/variance_multiplier"] >= 0.04


def test_any_regularizer_can_be_constrained(tiny_policy):
    module = loop(tiny_policy, regularizers={"entropy": Constrained(EntropyBonus(), limit=-99.0, lr=1.0)})
    run(module, steps=2)
    assert module.duals["entropy"].multiplier > 1.0  # the entropy is below 99, so the bonus is raised


# --- corrections and shaping ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half(Correction):
    paper: ClassVar[str] = ""

    def __call__(self, batch):
        return 0.5 * batch.response_mask.to(batch.rewards.dtype)


def test_a_correction_weighs_the_advantages(tiny_policy):
    plain, halved = Seen(), Seen()
    for seen, correction in ((plain, None), (halved, Half())):
        run(loop(tiny_policy, objective=seen, updates=ONE_STEP, correction=correction), steps=1)
    assert torch.equal(halved.batches[0].advantages, 0.5 * plain.batches[0].advantages)
    assert plain.batches[0].advantages.any()


def test_a_correction_makes_the_loop_compute_the_trainers_log_probs(tiny_policy):
    @dataclass(frozen=True)
    class Wrong(HuggingFaceRollout):
        """An engine whose log-probs are off by a factor of four."""

        def build(self, policy):
            engine = super().build(policy)
            generate = engine.generate

            def wrong(*args, **options):
                drawn = generate(*args, **options)
                return replace(drawn, log_probs=drawn.log_probs - torch.tensor(4.0).log())

            engine.generate = wrong
            return engine

    seen = Seen()
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, engine=Wrong(), correction=TruncatedImportance()), steps=1)
    plain = Seen()
    run(loop(tiny_policy, objective=plain, updates=ONE_STEP, engine=Wrong()), steps=1)
    torch.testing.assert_close(seen.batches[0].advantages, 2.0 * plain.batches[0].advantages)


def test_long_responses_are_charged_before_groups_are_compared(tiny_policy):
    seen = Seen()
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, length_penalty=OverlongPenalty(6, 5)), steps=1)
    batch = seen.batches[0]
    expected = -(batch.lengths - 1).clamp(min=0) / 5
    torch.testing.assert_close(batch.outcomes - batch.scores, expected.to(batch.scores))


# --- value sources that ask more of the loop --------------------------------------------------------------------------


def test_a_value_head_on_the_trunk_trains_the_whole_policy(tiny_policy):
    options = {"critics": TrunkCritic(), "advantage": GAE(lam=1.0), "regularizers": {"value": ValueRegression(0.5)}}
    module = loop(tiny_policy, objective=Seen(), **options)
    before = {name: tensor.clone() for name, tensor in module.policy.named_parameters()}
    run(module, steps=2)
    assert "value_head.affine.weight" in before
    assert all(not torch.equal(before[n], p) for n, p in module.policy.named_parameters() if "head" in n)
    values = module.composition.loss.objective.batches[0].values
    mask = module.composition.loss.objective.batches[0].response_mask
    assert ((values > 0) & (values < 1))[mask].all()


def test_values_of_the_own_head_are_those_of_the_forward_pass(tiny_policy):
    seen = Seen()
    options = {"critics": TrunkCritic(), "advantage": GAE(), "regularizers": {"value": ValueRegression(0.5)}}
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, **options), steps=1)
    torch.testing.assert_close(seen.outputs[0].values, seen.batches[0].values, atol=1e-6, rtol=0)
    assert seen.outputs[0].values.requires_grad


def test_completions_of_the_whole_response_cost_nothing_and_of_the_prompt_are_fresh_responses(tiny_policy):
    seen = Seen()
    options = {"critics": MonteCarloValues(samples=3, segmenter=FixedTokens(2)), "advantage": SegmentMonteCarlo()}
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, **options), steps=1)
    batch = seen.batches[0]
    thirds = (batch.values * 3).round() / 3
    torch.testing.assert_close(batch.values, thirds)  # means of three scores of 0 or 1
    first = batch.values[:, 0]
    for group in batch.group_ids.unique():  # all responses to a prompt start in one state
        assert len(first[batch.group_ids == group].unique()) == 1
    mask, ids = batch.response_mask, batch.segment_ids
    assert (ids[mask] == (torch.arange(mask.shape[1]) // 2).expand(mask.shape)[mask]).all()


def test_a_tracker_learns_from_every_batch_and_is_saved(tiny_policy, tmp_path):
    options = {"critics": BetaTracker(samples=0), "advantage": SingleStream(), "responses_per_prompt": 1}
    module = loop(tiny_policy, **options)
    run(module, steps=3).save_checkpoint(tmp_path / "last.ckpt")
    other = loop(tiny_policy, **options)
    other.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    uids = torch.tensor([example.uid for example in TASK.examples("train")])
    assert torch.equal(module.critics.priorities(uids), other.critics.priorities(uids))
    assert len(module.critics.priorities(uids).unique()) > 1


# --- dynamic sampling -------------------------------------------------------------------------------------------------


def test_every_update_has_as_many_informative_groups_as_prompts_were_asked_for(tiny_policy):
    seen = Seen()
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, dynamic_sampling=DynamicSampling(max_draws=50)), steps=3)
    for batch in seen.batches:
        assert sorted(batch.group_ids.unique().tolist()) == [0, 1, 2]
        for group in range(3):
            assert len(batch.scores[batch.group_ids == group].unique()) > 1
    assert len(seen.batches) == 3


def test_diagnostics_of_an_estimator_are_logged(tiny_policy):
    seen = Watch()
    run(loop(tiny_policy, advantage=CorrectnessRelative(min_correct=0.9)), steps=1, callbacks=[seen])
    assert 0.0 <= seen.steps[0]["advantage/floor_share"] <= 1.0
