"""When memory runs out, the step is done again in smaller pieces, and nothing else changes."""

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from rl4llm.algorithms import Averaging, Guards, Learner, Runtime, Updates, compose, deal, improve
from rl4llm.algorithms.health import Health
from rl4llm.algorithms.meter import Meter, scalar
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.objectives import TokenMean
from rl4llm.randomness import generator
from rl4llm.regularizers import Constrained, RatioPenalty
from tests.algorithms.helpers import SGD, Watch, critic_slots, loop, run, weights


def small(model, most):
    """A forward pass that needs more memory than there is for more than so many tokens."""
    forward = model.forward

    def limited(rows, **options):
        if torch.is_grad_enabled() and rows.prompt_ids.numel() + rows.response_ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(rows, **options)

    model.forward = limited


def test_running_out_of_memory_halves_the_microbatches_and_changes_no_result(tiny_policy):
    part = {"ratio": Constrained(RatioPenalty(), limit=-1.0, initial=0.5, lr=0.01)}
    updates = Updates(minibatches=2, epochs=2, warmup_steps=0, microbatch_tokens=64)
    found = {}
    for most in (10**6, 25):
        watch = Watch()
        module = loop(tiny_policy, regularizers=part, updates=updates, optimizer=lambda p: SGD(p, lr=0.5))
        small(module.policy, most)
        if most == 25:
            with pytest.warns(UserWarning, match="policy: memory ran out with microbatches of 64 tokens") as seen:
                run(module, steps=2, callbacks=[watch])
            assert len([w for w in seen if "memory ran out" in str(w.message)]) == 1
            assert module.health.budget("policy", 64) == 16
        else:
            run(module, steps=2, callbacks=[watch])
        found[most] = module, watch.steps
    (plenty, shown), (scarce, shown_again) = found.values()
    torch.testing.assert_close(weights(plenty.policy), weights(scarce.policy), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(plenty.duals["ratio"].multiplier, scarce.duals["ratio"].multiplier, rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights(plenty.policy), weights(loop(tiny_policy).policy))
    for one, other in zip(shown, shown_again, strict=True):
        for name in one:
            if not name.startswith(("time/", "train/tokens_per_second")):
                assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


def step_of(losses, health, rows=4, tokens=64, lockstep=False, meter=None):
    """One step of a model with one weight on the rows of a small batch."""
    module = torch.nn.Linear(1, 1, bias=False)
    zeros, flags = torch.zeros(rows, 3), torch.ones(rows, 3, dtype=torch.bool)
    batch = RolloutBatch(
        prompt_ids=torch.ones(rows, 2, dtype=torch.long),
        prompt_mask=flags[:, :2],
        response_ids=torch.ones(rows, 3, dtype=torch.long),
        response_mask=flags,
        group_ids=torch.arange(rows),
        prompt_uids=torch.arange(rows),
        scores=zeros[:, 0],
        truncated=~flags[:, 0],
        rewards=zeros,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
    )
    updates = Updates(minibatches=1, microbatch_tokens=tokens)
    optimizer = SGD(module.parameters(), lr=0.1)
    schedule = updates.scheduler(optimizer, 10)
    learner = Learner("critic_0", module, optimizer, schedule, updates, Averaging((TokenMean(),)))
    dealt, runtime = deal(batch, updates, learner.averaging, generator=generator("x")), Runtime(lockstep=lockstep)
    improve(runtime, learner, dealt, lambda piece: losses(module, piece), meter or Meter(), health, counted=True)


def test_a_row_that_does_not_fit_is_one_clear_line():
    def losses(module, piece):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

    health = Health(Guards(), Path)
    with (
        pytest.warns(UserWarning, match=r"critic_0: memory ran out.*--model\.critic_updates\.microbatch_tokens"),
        pytest.raises(UsageError, match=r"critic_0: not even one row fits into memory \(CUDA out of memory\.\)"),
    ):
        step_of(losses, health)


@pytest.mark.parametrize(("message", "lockstep"), [("shapes do not match", False), ("CUDA out of memory", True)])
def test_other_errors_and_ranks_in_lockstep_are_not_tried_again(message, lockstep):
    calls = []

    def losses(module, piece):
        calls.append(1)
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        step_of(losses, Health(Guards(), Path), lockstep=lockstep)
    assert len(calls) == 1


def test_an_attempt_that_failed_is_not_counted_in_the_means():
    sizes, meter = [], Meter()

    def losses(module, piece):
        sizes.append(len(piece))
        if len(sizes) == 2:  # the second microbatch of the first attempt
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        meter.add("place", piece.group_ids.float())
        meter.add("attempt", scalar(len(sizes)))
        return [module.weight.sum() * piece.response_mask.float()]

    with pytest.warns(UserWarning, match="memory ran out with microbatches of 10 tokens"):
        step_of(losses, Health(Guards(), Path), tokens=10, meter=meter)
    assert sizes == [2, 2, 1, 1, 1, 1]
    means = {name: float(mean) for name, mean in meter.means().items()}
    assert means == {"grad_norm/critic_0": pytest.approx(1.0), "place": 1.5, "attempt": 4.5}


def test_a_meter_goes_back_to_what_it_held():
    meter = Meter()
    meter.add("x", scalar(1.0))
    before = meter.copy()
    meter.add("x", scalar(5.0))
    meter.add("y", scalar(5.0))
    meter.restore(before)
    meter.add("x", scalar(2.0))
    assert {name: float(mean) for name, mean in meter.means().items()} == {"x": 1.5}


@pytest.mark.parametrize("broken", [False, True], ids=["steps", "a skipped step"])
def test_no_gradient_is_left_while_another_model_learns(tiny_policy, tiny_critic, broken):
    module = compose(tiny_policy, **critic_slots(tiny_critic, guards=Guards(skipped=100)))
    losses, alone = module.critics._losses, []

    def look(index, rows):
        others = [module.policy, *(c for place, c in enumerate(module.critics.critics) if place != index)]
        alone.append(all(parameter.grad is None for other in others for parameter in other.parameters()))
        return losses(index, rows) * (math.nan if broken else 1.0)

    module.critics._losses = look
    with pytest.warns(UserWarning, match="loss is nan") if broken else nullcontext():
        run(module, steps=2)
    assert alone
    assert all(alone)
    assert all(parameter.grad is None for parameter in module.parameters())
