"""An engine with weights of its own is compared with the trainer on every batch: one that missed an update shows."""

import warnings

import pytest
import torch
from torch.optim import AdamW

from rl4llm.algorithms import Guards, Updates
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.mismatch import EngineMonitor, log_prob_gaps
from rl4llm.checks import UsageError
from rl4llm.models import LoRA, Policy, Pretrained
from rl4llm.replay import FIFOReplay
from tests.algorithms.helpers import Watch, loop, on_ranks, run, some_prompts
from tests.rollouts.apart import ApartRollout

GAPS = ["rollout/log_prob_gap_mean", "rollout/log_prob_gap_max", "rollout/kl_k1", "rollout/kl_k3"]


def watched(policy, steps=3, **changes):
    """What a run on an engine apart logs, and the engine."""
    spec, watch = changes.pop("engine", ApartRollout()), Watch()
    run(loop(policy, engine=spec, **changes), steps=steps, callbacks=[watch])
    return watch.steps, spec.built[0]


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_gaps_by_hand():
    pi = torch.tensor([[-1.0, -2.0, -3.0, 7.0]], dtype=torch.float64)
    mu = torch.tensor([[-1.5, -2.0, float("nan"), float("nan")]])
    gaps = log_prob_gaps(pi, mu, torch.tensor([[True, True, True, False]]))
    assert gaps["log_prob_gap"].tolist() == [0.5, 0.0]
    assert gaps["kl_k1"].tolist() == [-0.5, 0.0]  # log μ − log π
    torch.testing.assert_close(gaps["kl_k3"][0], torch.tensor(0.5).exp().double() - 1.5, atol=1e-7, rtol=0)


def test_the_mean_of_both_estimates_is_the_divergence_of_the_engine_from_the_trainer():
    mu, pi = (torch.randn(5, generator=torch.Generator().manual_seed(s)).double().log_softmax(-1) for s in (0, 1))
    gaps = log_prob_gaps(pi[None], mu[None], torch.ones(1, 5, dtype=torch.bool))
    expected = (mu.exp() * (mu - pi)).sum()
    for name in ("kl_k1", "kl_k3"):
        torch.testing.assert_close((mu.exp() * gaps[name]).sum(), expected)


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"updates": Updates(minibatches=2, warmup_steps=0)},
        {"trust_rollout_log_probs": True},
        {"trust_rollout_log_probs": False},
        {"replay": FIFOReplay(capacity=16, share=0.5)},
    ],
)
def test_every_batch_is_measured(tiny_policy, changes):
    with warnings.catch_warnings(record=True) as said:
        steps, engine = watched(tiny_policy, **changes)
    assert not [warning for warning in said if "the engine" in str(warning.message)]
    assert len(steps) == 3
    for step in steps:
        assert set(GAPS) <= set(step)
        assert step["rollout/log_prob_gap_mean"] <= step["rollout/log_prob_gap_max"] < 1e-4
        assert abs(step["rollout/kl_k1"]) < 1e-4
    assert engine.rests == 3  # once a batch


def test_an_engine_on_the_policy_s_own_module_costs_no_pass(tiny_policy):
    watch = Watch()
    run(loop(tiny_policy), steps=1, callbacks=[watch])
    assert not set(GAPS) & set(watch.steps[0])


def test_a_withheld_sync_stops_the_run(tiny_policy):
    fast = {"optimizer": lambda parameters: AdamW(parameters, lr=0.2)}
    with pytest.raises(UsageError, match=r"differ from the trainer's by .*(engine_gap_error=0\.3|first batch: it has)"):
        watched(tiny_policy, engine=ApartRollout(withheld=True), steps=8, **fast)
    steps, _ = watched(tiny_policy, steps=8, **fast)  # with the weights it runs through
    assert len(steps) == 8


def test_a_withheld_sync_is_noticed_long_before_it_stops_the_run(tiny_policy):
    slow = {"optimizer": lambda parameters: AdamW(parameters, lr=3e-5)}
    with pytest.warns(UserWarning, match=r"on average, and by .* on the first batch: it may have missed the weights"):
        steps, _ = watched(tiny_policy, engine=ApartRollout(withheld=True), **slow)
    gaps = [step["rollout/log_prob_gap_mean"] for step in steps]
    assert gaps[0] < 1e-5 < gaps[1] < gaps[2] < 0.05


def test_a_stale_batch_changes_no_weight(tiny_policy):
    spec = ApartRollout()
    module = loop(tiny_policy, engine=spec, guards=Guards(engine_gap_error=1e-3))
    spec.built[0].withheld = True
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.mul_(2.0)
    before = [parameter.clone() for parameter in module.policy.parameters()]
    with pytest.raises(UsageError, match=r"engine_gap_error=0\.001"):
        run(module, steps=1)
    assert all(map(torch.equal, before, module.policy.parameters()))


def test_an_engine_that_admits_to_older_weights_is_named(tiny_policy):
    class Late(ApartRollout):
        def build(self, policy):
            engine = super().build(policy)
            engine.sync = lambda weights, version: None
            return engine

    with pytest.warns(UserWarning, match=r"drew 12 of 12 responses with weights of version -1, and the policy is at"):
        watched(tiny_policy, engine=Late(), steps=2, optimizer=lambda parameters: AdamW(parameters, lr=1e-6))


# --- warnings and errors of the monitor -------------------------------------------------------------------------------


def monitor(**guards):
    said = []
    return EngineMonitor(Guards(**guards), lambda key, message: said.append(key)), said


def test_each_threshold_speaks_at_its_gap():
    told, said = monitor(engine_gap_warning=0.1, engine_gap_error=0.5)
    for gap in (4e-3, 0.07, 0.09, 0.2):
        told._judge(gap)
    assert said == ["engine/growth", "engine/gap"]
    for wrong in (0.6, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="draws with other weights than the policy's"):
            told._judge(wrong)
    silent, said = monitor(engine_gap_warning=None, engine_gap_error=None)
    for gap in (1e-7, 9.0):
        silent._judge(gap)
    assert said == []


def test_a_gap_that_has_grown_a_thousandfold_is_an_error_long_before_it_is_large():
    told, said = monitor()
    for gap in (1e-7, 1.9e-4, 2.1e-4, 9e-3):
        told._judge(gap)
    assert said == ["engine/growth"] * 2
    with pytest.raises(
        UsageError, match=r"by 0\.011 nats .* and by 1e-07 on the first batch: it has missed the weights"
    ):
        told._judge(0.011)


def test_a_noisy_engine_is_compared_with_its_own_noise():
    told, said = monitor()
    for gap in (0.01, 0.04, 0.02):
        told._judge(gap)
    assert said == []


def test_an_engine_without_log_probs_is_said_to_go_unwatched(tiny_policy):
    spec = ApartRollout()
    module = loop(tiny_policy, engine=spec)
    batch = module._collect(module.runtime(), some_prompts(2), Meter()).batch
    told, said = monitor()
    silent = batch.replace(rollout_log_probs=torch.full_like(batch.rollout_log_probs, torch.nan))
    told.observe(silent, batch.old_log_probs, version=0, meter=Meter())
    assert said == ["engine/silent"]


@pytest.mark.parametrize("name", ["engine_gap_warning", "engine_gap_error"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_thresholds_are_positive(name, value):
    with pytest.raises(UsageError, match=name):
        Guards(**{name: value})


# --- what an engine is sent -------------------------------------------------------------------------------------------


def test_every_tensor_is_sent_under_each_of_its_names(tiny_policy):
    spec = ApartRollout()
    module = loop(tiny_policy, engine=spec)
    with module.answering().drawing(module.runtime(), 3):
        assert spec.built[0].version == 3
    names = [name for name, _ in spec.built[0].received]
    assert sorted(names) == sorted(name for name, _ in module.policy.model.named_parameters(remove_duplicate=False))
    assert "lm_head.weight" in names
    assert not any(tensor.requires_grad for _, tensor in spec.built[0].received)


def test_an_adapter_is_merged_into_what_is_sent(tiny_policy):
    plain, spec = Policy.load(tiny_policy), ApartRollout()
    module = loop(Pretrained(str(tiny_policy), adapter=LoRA(rank=2)), engine=spec)
    for name, parameter in module.policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with module.answering().drawing(module.runtime(), 1):
        sent = dict(spec.built[0].received)
    assert set(sent) == {name for name, _ in plain.model.named_parameters(remove_duplicate=False)}
    changed = {name for name, tensor in plain.model.named_parameters() if not torch.equal(tensor, sent[name])}
    assert changed
    assert all("proj" in name for name in changed)


def test_all_ranks_go_through_all_weights_whatever_their_engine_does(tiny_policy):
    asked, modules = {}, [loop(tiny_policy, engine=ApartRollout()) for _ in range(2)]

    def work(runtime):
        module = modules[runtime.rank]
        engine = module.engine
        if runtime.rank:  # as a server's client does on all ranks but the first
            engine.sync = lambda weights, version: setattr(engine.inner, "version", version)
        plain = module.policy.model.named_parameters
        counted = asked.setdefault(runtime.rank, [])

        def named(*args, **kwargs):
            for name, tensor in plain(*args, **kwargs):
                counted.append(name)
                yield name, tensor

        module.policy.model.named_parameters = named
        with module.answering().drawing(runtime, 1):
            pass

    on_ranks(2, work)
    assert asked[0] == asked[1]
    assert asked[0]


def test_no_rank_draws_before_every_engine_has_the_weights(tiny_policy):
    order, modules = [], [loop(tiny_policy, engine=ApartRollout()) for _ in range(2)]

    def work(runtime):
        module = modules[runtime.rank]
        inner = module.engine.sync

        def slow(weights, version):
            inner(weights, version)
            order.append("synced")

        module.engine.sync = slow
        with module.answering().drawing(runtime, 1):
            order.append("drawing")

    on_ranks(2, work)
    assert order == ["synced"] * 2 + ["drawing"] * 2


def test_a_reference_is_surveyed_on_the_same_engine(tiny_policy):
    module = loop(tiny_policy, engine=ApartRollout())
    reference = Policy.copy_of(module.policy)
    with module.answering().of(reference, module.engine_spec) as answering:
        assert answering.engine is module.engine
        assert answering.policy is reference
    shared = loop(tiny_policy)
    with shared.answering().of(reference, shared.engine_spec) as answering:
        assert answering.engine.policy is reference
    assert answering.engine.closed
    assert not shared.engine.closed
