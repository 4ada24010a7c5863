"""Objectives that ask more of the loop: likeliest tokens, no advantages, a reference that moves, whole groups."""

import torch

from rl4llm.algorithms import Updates, accumulate_gradients, cut_by_tokens
from rl4llm.data import PromptData
from rl4llm.objectives import DPPO, REBEL, SequenceMean, TrajectoryBellmanResidual
from rl4llm.rollouts import HuggingFaceRollout
from tests.algorithms.helpers import TASK, Seen, loop, run

ONE_STEP = Updates(minibatches=1, warmup_steps=0, schedule="constant")


def test_the_engines_likeliest_tokens_reach_the_objective_with_the_policys_log_probs(tiny_policy):
    seen = Seen(DPPO(divergence="topk_tv"))
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, engine=HuggingFaceRollout(top_log_probs=3)), steps=1)
    batch, output = seen.batches[0], seen.outputs[0]
    assert batch.top_ids.shape == (*batch.response_mask.shape, 3)
    mask = batch.response_mask
    torch.testing.assert_close(output.top_log_probs[mask], batch.top_log_probs[mask], atol=2e-5, rtol=0)
    assert not output.top_log_probs.requires_grad
    assert (batch.top_log_probs[mask].diff(dim=-1) <= 0).all()


def test_more_likeliest_tokens_than_the_vocabulary_has_are_all_of_it(tiny_policy):
    seen = Seen(DPPO(divergence="topk_kl"))
    run(loop(tiny_policy, objective=seen, updates=ONE_STEP, engine=HuggingFaceRollout(top_log_probs=500)), steps=1)
    mask = seen.batches[0].response_mask
    torch.testing.assert_close(seen.batches[0].top_log_probs[mask].exp().sum(-1), torch.ones(int(mask.sum())))


def test_regression_needs_no_advantages(tiny_policy):
    for objective in (TrajectoryBellmanResidual(), TrajectoryBellmanResidual(calibrated=True), REBEL()):
        module = loop(tiny_policy, advantage=None, objective=objective)
        before = [p.clone() for p in module.policy.parameters()]
        run(module, steps=1)
        assert any(not torch.equal(a, b) for a, b in zip(before, module.policy.parameters(), strict=True))


def test_a_calibrated_residual_is_zero_at_the_reference_without_reward(tiny_policy):
    seen = Seen(TrajectoryBellmanResidual(calibrated=True))
    run(loop(tiny_policy, advantage=None, objective=seen, updates=ONE_STEP), steps=1)
    batch, output = seen.batches[0], seen.outputs[0]
    loss = seen.inner(output, batch.replace(scores=0 * batch.scores, rewards=0 * batch.rewards))
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-6, rtol=0)


def test_the_reference_follows_the_policy_at_its_interval(tiny_policy):
    module = loop(tiny_policy, advantage=None, objective=TrajectoryBellmanResidual(), reference_interval=2)
    run(module, steps=3)
    still = loop(tiny_policy, advantage=None, objective=TrajectoryBellmanResidual())
    start = {name: tensor.clone() for name, tensor in still.reference.model.state_dict().items()}
    run(still, steps=3)
    for name, tensor in still.reference.model.state_dict().items():
        assert torch.equal(tensor, start[name])
    followed, present = module.reference.model.state_dict(), module.policy.model.state_dict()
    assert any(not torch.equal(followed[name], start[name]) for name in start)
    assert any(not torch.equal(followed[name], present[name]) for name in start)  # step 2's, not step 3's


def test_groups_are_never_cut_for_objectives_that_compare_siblings(tiny_policy):
    seen = Seen(REBEL(), whole_groups=True)
    updates = Updates(minibatches=2, microbatch_tokens=20, warmup_steps=0)
    run(loop(tiny_policy, advantage=None, objective=seen, updates=updates), steps=1, data=PromptData(TASK, 6))
    assert len(seen.batches) >= 4
    for batch in seen.batches:
        assert batch.group_ids.bincount().max() == 4
        assert set(batch.group_ids.bincount().tolist()) <= {0, 4}
    assert sum(len(batch) for batch in seen.batches) == 24


def test_the_gradient_of_whole_groups_does_not_depend_on_the_cut(tiny_policy):
    seen = Seen(REBEL())
    run(loop(tiny_policy, advantage=None, objective=seen, updates=ONE_STEP), steps=1)
    batch, module = seen.batches[0], loop(tiny_policy).double()
    batch = batch.replace(scores=torch.arange(len(batch)).float())
    gradients = []
    for tokens in (1, 40, 10**6):
        module.zero_grad()
        accumulate_gradients(
            batch,
            lambda rows: [REBEL()(module.policy(rows), rows)],
            SequenceMean(),
            max_tokens=tokens,
            whole_groups=True,
        )
        gradients.append(torch.cat([p.grad.flatten() for p in module.policy.parameters()]))
        count = len(list(cut_by_tokens(batch, tokens, whole_groups=True)))
        assert count == {1: 3, 10**6: 1}.get(tokens, count)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)
    assert gradients[0].abs().max() > 0
