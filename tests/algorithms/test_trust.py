"""Whether the engine's log-probs stand for the trainer's: when, what is saved, and how a wrong one is found out."""

import warnings
from dataclasses import replace

import pytest
import torch

from rl4llm.algorithms import Updates
from rl4llm.algorithms.trust import EngineTrust
from rl4llm.corrections import TruncatedImportance
from rl4llm.models import Policy
from rl4llm.rollouts import HuggingFaceRollout
from rl4llm.rollouts.hugging_face import HuggingFaceEngine
from tests.algorithms.helpers import loop, run


class Exact:
    exact = True


class Other:
    exact = False


@pytest.mark.parametrize(
    ("choice", "corrected", "engine", "precision", "trusted"),
    [
        (None, False, Exact, "32-true", True),
        (None, False, Exact, "64-true", True),
        (None, False, Exact, "bf16-mixed", False),
        (None, False, Other, "32-true", False),
        (None, True, Exact, "32-true", False),
        (True, False, Other, "bf16-mixed", True),
        (False, False, Exact, "32-true", False),
    ],
)
def test_who_is_trusted(unchecked_shapes, choice, corrected, engine, precision, trusted):
    assert EngineTrust(choice, corrected=corrected)(engine(), precision) is trusted


def test_an_engine_that_is_too_far_off_loses_its_trust_once(unchecked_shapes):
    trust = EngineTrust(None, corrected=False)
    trust.observe({})
    trust.observe({"policy/engine_difference": torch.tensor(1e-5)})
    assert trust(Exact(), "32-true")
    with pytest.warns(UserWarning, match="differ from the trainer's by 0.01 nats on average, so the trainer"):
        trust.observe({"policy/engine_difference": torch.tensor(0.01)})
    assert not trust(Exact(), "32-true")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trust.observe({"policy/engine_difference": torch.tensor(0.01)})
    told = EngineTrust(True, corrected=False)
    told.observe({"policy/engine_difference": torch.tensor(0.01)})
    assert told(Other(), "32-true")


def test_the_policy_s_own_module_is_exact_in_single_precision(tiny_policy):
    policy = Policy.load(tiny_policy)
    engine = HuggingFaceEngine(policy)
    assert engine.exact
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not engine.exact
    policy.model.bfloat16()
    assert not engine.exact


def passes(policy, **changes):
    """How often the policy runs without gradient in two steps of two minibatches."""
    module, without = loop(policy, updates=Updates(minibatches=2, warmup_steps=0), **changes), []
    module.policy.register_forward_pre_hook(lambda *_: without.append(1) if not torch.is_grad_enabled() else None)
    run(module, steps=2)
    return len(without)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"trust_rollout_log_probs": False}, 2),
        ({"correction": TruncatedImportance()}, 2),
    ],
)
def test_no_pass_is_made_for_log_probs_that_the_engine_has(tiny_policy, changes, expected):
    assert passes(tiny_policy, **changes) == expected


class Shifted(HuggingFaceEngine):
    """Reports other log-probs than it drew with."""

    def generate(self, *args, **kwargs):
        responses = super().generate(*args, **kwargs)
        return replace(responses, log_probs=responses.log_probs - 0.5)


class ShiftedRollout(HuggingFaceRollout):
    def build(self, policy):
        return Shifted(policy)


def test_a_wrong_engine_is_found_out_in_the_first_step(tiny_policy):
    with pytest.warns(UserWarning, match=r"differ from the trainer's by 0.5 nats on average"):
        made = passes(tiny_policy, engine=ShiftedRollout())
    assert made == 1  # the second step computes them


def test_a_resumed_run_remembers_that_trust_was_lost(tiny_policy):
    module = loop(tiny_policy)
    module.trust.lost = True
    resumed = loop(tiny_policy)
    assert not resumed.trust.lost
    resumed.load_state_dict(module.state_dict())
    assert resumed.trust.lost
