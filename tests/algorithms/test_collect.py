"""Collecting: what is drawn and scored, whoever draws it."""

from itertools import combinations

import pytest
import torch
from torch.optim import SGD

from rl4llm.algorithms import Runtime, judge
from rl4llm.algorithms.judge import with_advantages
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, PromptBatch, PromptData
from rl4llm.gates import HighEntropy
from rl4llm.rollouts import HuggingFaceRollout
from tests.algorithms.helpers import (
    TASK,
    Watch,
    collected,
    even_length,
    loop,
    on_ranks,
    passes,
    rollout,
    run,
    some_prompts,
    weights,
)


def same_rows(a, b):
    """Whether two batches hold the same numbers, apart from padding."""
    a, b = a.trim(), b.trim()
    for name, tensor in a.tensors().items():
        torch.testing.assert_close(tensor, b.tensors()[name], rtol=0, atol=1e-6, equal_nan=True, msg=name)
    assert torch.equal(a.response_ids, b.response_ids)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_rewards_hold_the_score_at_the_last_token(tiny_policy):
    batch = rollout(loop(tiny_policy))
    torch.testing.assert_close(batch.rewards.sum(-1), batch.scores)
    last = batch.lengths - 1
    torch.testing.assert_close(batch.rewards.gather(1, last[:, None])[:, 0], batch.scores)


def test_unscorable_responses_are_counted_and_teach_nothing(tiny_policy):
    def broken(prompt, response, answer):
        raise RuntimeError("the verifier is down")

    watch = Watch()
    module = loop(tiny_policy)
    before = weights(module.policy)
    data = PromptData(AbsoluteDifference(digits=3, train_size=64, reward=broken), prompts_per_step=3)
    with pytest.warns(UserWarning, match="reward 'broken' could not score 12 of 12 responses .*RuntimeError.*verifier"):
        run(module, steps=1, callbacks=[watch], data=data, gradient_clip_val=None)
    assert watch.steps[0]["train/unscorable_share"] == 1.0
    assert "train/accuracy" not in watch.steps[0]
    module = loop(tiny_policy, optimizer=lambda p: SGD(p, lr=1.0))
    with pytest.warns(UserWarning, match="could not score"):
        run(module, steps=1, data=data)
    assert torch.equal(weights(module.policy), before)


def test_some_unscorable_responses_change_nothing_for_the_others(tiny_policy):
    def sometimes(prompt, response, answer):
        return float("nan") if "1" in response else even_length(prompt, response, answer)

    module = loop(tiny_policy)
    task = AbsoluteDifference(digits=3, train_size=64, reward=sometimes)
    found = collected(module, some_prompts(8, task=task))
    batch, lost = found.batch, found.batch.scores.isnan()
    assert lost.any()
    assert not lost.all()
    assert not batch.response_mask[lost].any()
    assert not batch.rewards[lost].any()
    assert not with_advantages(batch, module.composition).advantages[lost].any()
    assert found.problems == {"returned nan": int(lost.sum())}


def test_an_all_masked_minibatch_is_harmless(tiny_policy):
    from rl4llm.algorithms import Updates

    module = loop(tiny_policy, updates=Updates(minibatches=12, warmup_steps=0))

    def rarely(prompt, response, answer):
        return None if len(response) > 1 else 1.0

    data = PromptData(AbsoluteDifference(digits=3, train_size=64, reward=rarely), prompts_per_step=3)
    with pytest.warns(UserWarning, match="returned None"):
        run(module, steps=2, data=data)
    assert weights(module).isfinite().all()


def test_the_logged_entropy_is_that_of_response_tokens(tiny_policy):
    meter = Meter()
    batch = rollout(loop(tiny_policy), meter=meter)
    assert not batch.response_mask.all()
    expected = batch.entropies[batch.response_mask].mean()
    torch.testing.assert_close(meter.means()["policy/entropy"], expected)


def test_two_draws_of_one_prompt_are_two_groups(tiny_policy):
    example = TASK.examples("train")[0]
    batch = collected(loop(tiny_policy), PromptBatch([example, example], TASK)).batch
    assert batch.group_ids.tolist() == [0] * 4 + [1] * 4
    assert batch.prompt_uids.unique().numel() == 1
    assert not torch.equal(batch.response_ids[:4], batch.response_ids[4:])  # another place, other random numbers


# --- ranks and random numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_what_ranks_gather_is_what_one_process_collects(tiny_policy, ranks):
    def sometimes(prompt, response, answer):
        return None if response.startswith("1") else even_length(prompt, response, answer)

    prompts, meter = some_prompts(4, task=AbsoluteDifference(digits=3, train_size=64, reward=sometimes)), Meter()
    alone = collected(loop(tiny_policy), prompts, meter, Runtime(seed=5, step=2))
    modules, meters = [loop(tiny_policy) for _ in range(ranks)], [Meter() for _ in range(ranks)]

    def work(runtime):
        own = Runtime(5, 2, runtime.rank, ranks, gather=runtime.gather)
        found = collected(modules[runtime.rank], prompts, meters[runtime.rank], own)
        return found, meters[runtime.rank].means(runtime.gather)

    for found, means in on_ranks(ranks, work):
        same_rows(found.batch, alone.batch)
        assert found.problems == alone.problems
        assert means.keys() == meter.means().keys()
        for name, value in meter.means().items():
            torch.testing.assert_close(means[name], value)


def test_a_reward_that_stops_one_rank_stops_all_with_the_same_line(tiny_policy):
    modules, prompts = [loop(tiny_policy) for _ in range(2)], some_prompts(2)

    def work(runtime):
        module = modules[runtime.rank]
        if runtime.rank == 1:
            module.engine.close()
        with pytest.raises(UsageError, match="the engine is closed") as caught:
            collect_on(module, prompts, runtime)
        return str(caught.value)

    first, second = on_ranks(2, work)
    assert first == second


def collect_on(module, prompts, runtime):
    from rl4llm.algorithms import collect, gather

    answering = module.answering()
    return gather(runtime, lambda: collect(runtime, answering, prompts, Meter(), responses_per_prompt=2))


@pytest.mark.parametrize("rows_at_once", [1, 3, 7])
def test_responses_do_not_depend_on_how_many_are_drawn_at_once(tiny_policy, rows_at_once):
    alone = rollout(loop(tiny_policy))
    same_rows(rollout(loop(tiny_policy, engine=HuggingFaceRollout(rows_at_once=rows_at_once))), alone)


def test_responses_to_a_prompt_do_not_depend_on_the_prompts_beside_it(tiny_policy):
    prompts, module = some_prompts(4), loop(tiny_policy)
    whole = collected(module, prompts).batch
    first = collected(module, PromptBatch(prompts.examples[:2], TASK)).batch
    same_rows(first, whole.select(whole.group_ids < 2))


def test_responses_follow_from_the_seed_and_the_step(tiny_policy):
    module, prompts = loop(tiny_policy), some_prompts(4)
    draws = [
        collected(module, prompts, runtime=Runtime(*key)).batch.response_ids for key in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in combinations(draws[1:], 2))


def test_two_runs_that_differ_in_one_part_draw_the_same_first_responses(tiny_policy):
    """Paired: the first rollout batch is the same, the gate drops tokens, and only then do the runs part."""
    plain, gated = loop(tiny_policy), loop(tiny_policy, gate=HighEntropy(0.2))
    batches = [rollout(module) for module in (plain, gated)]
    same_rows(*batches)
    judged = [judge(b, m.composition, passes(m)) for b, m in zip(batches, (plain, gated), strict=True)]
    assert torch.equal(judged[0].advantages, judged[1].advantages)
    assert judged[1].gates.sum() < judged[0].gates.sum()
    run(plain)
    run(gated)
    assert not torch.equal(weights(plain), weights(gated))


class Traits(AbsoluteDifference):
    """Sees a trait in long responses, and fails on others."""

    def traits(self, response):
        if len(response) < 3:
            raise KeyError("too short")
        return {"long": 1.0}


def test_traits_that_cannot_be_seen_cost_only_themselves_and_are_said_once(tiny_policy):
    task = Traits(digits=3, train_size=64, reward=even_length)
    module, meter = loop(tiny_policy), Meter()
    both = [(some_prompts(8, task=task), meter), (some_prompts(8, seed=1, task=task), Meter())]
    with pytest.warns(UserWarning, match=r"Traits\.traits raised KeyError: 'too short'") as seen:
        found, _ = [collected(module, prompts, one) for prompts, one in both]
    assert len(seen) == 1
    assert not found.batch.scores.isnan().any()
    assert meter.means()["train/long"] == 1.0
