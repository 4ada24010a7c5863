"""The loop does what published compositions ask of it: no pass in vain, gates that move, warm-ups that end."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from rl4llm.advantages import GAE, GroupRelative
from rl4llm.algorithms import Runtime, Updates
from rl4llm.algorithms.completions import complete
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.corrections import TruncatedImportance
from rl4llm.critics import GreedyValue, MiniCritics, MonteCarloValues
from rl4llm.gates import CovarianceGate, Gate, HighCovariance, clipped_tokens
from rl4llm.models import Policy
from rl4llm.objectives import DPPO, REBEL, ImportanceWeighted, PPOClip, Reinforce, SoLS
from rl4llm.regularizers import LogRatioPenalty, RatioPenalty
from rl4llm.replay import FIFOReplay
from rl4llm.segments import FixedTokens
from tests.algorithms.helpers import loop, run
from tests.algorithms.test_completions import answering, drawn, prompts

SEVERAL = Updates(minibatches=2, warmup_steps=0)


def passes(tiny_policy, **changes):
    """Forward passes of the policy without and with gradient in one rollout batch, of an engine that is not trusted."""
    calls, module = [], loop(tiny_policy, updates=SEVERAL, trust_rollout_log_probs=False, **changes)
    forward = module.policy.forward
    module.policy.forward = lambda *a, **k: (calls.append(torch.is_grad_enabled()), forward(*a, **k))[1]
    run(module, steps=1)
    return calls.count(False), calls.count(True)


@pytest.mark.parametrize("objective", [DPPO(), SoLS(), Reinforce()], ids=lambda o: type(o).__name__)
def test_no_pass_is_paid_for_log_probs_that_nothing_reads(tiny_policy, objective):
    assert passes(tiny_policy, objective=objective) == (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": PPOClip()},
        {"objective": DPPO(anchor="old")},
        {"objective": Reinforce(), "regularizers": {"near": RatioPenalty()}},
        {"objective": DPPO(), "correction": TruncatedImportance()},
    ],
    ids=["ratio", "anchor", "penalty", "correction"],
)
def test_it_is_paid_where_a_part_compares_with_them(tiny_policy, changes):
    assert passes(tiny_policy, **changes) == (1, 2)


# --- gates that depend on the policy as it moves --------------------------------------------------------------------


class Watching(CovarianceGate):
    """Keeps what it was shown."""

    seen: ClassVar[list[RolloutBatch]] = []

    def __call__(self, batch):
        self.seen.append(batch)
        return super().__call__(batch)


def test_a_covariance_gate_sees_the_policy_at_every_step(tiny_policy):
    Watching.seen.clear()
    gate = Watching(fraction=0.3, low=-9.0, high=9.0)
    assert passes(tiny_policy, gate=gate) == (1 + 2, 2)
    whole, first, second = (Watching.seen[index] for index in (0, 1, -1))
    assert whole.present_log_probs is None
    assert len(first) + len(second) == len(whole)
    torch.testing.assert_close(first.present_log_probs, first.old_log_probs, rtol=1e-5, atol=1e-6)
    moved = (second.present_log_probs - second.old_log_probs)[second.response_mask]
    assert moved.abs().max() > 1e-4


def test_a_penalty_under_a_moving_gate_is_chosen_anew(tiny_policy):
    held = LogRatioPenalty(coef=1.0, where=HighCovariance(fraction=0.3))
    assert passes(tiny_policy, regularizers={"held": held}) == (3, 2)


def test_gates_that_hold_for_the_batch_cost_no_pass(tiny_policy):
    class Everything(Gate):
        def __call__(self, batch):
            assert batch.present_log_probs is None
            return batch.response_mask

    assert passes(tiny_policy, gate=Everything()) == (1, 2)


def test_joined_gates_move_where_one_of_them_does():
    moving = CovarianceGate()

    class Still(Gate):
        def __call__(self, batch):
            return batch.response_mask

    assert (moving & Still()).each_step
    assert (Still() | moving).each_step
    assert (~moving).each_step
    assert not (Still() & ~Still()).each_step


def test_clipped_tokens_are_no_candidates(unchecked_shapes):
    """Covariances are 1.86, 0.14, 0.05 and 1.99; the first and the last are clipped, so the second is dropped."""
    old = torch.full((1, 4), 0.3).log()
    present = torch.tensor([[0.9, 0.35, 0.3, 0.1]]).log()
    advantages = torch.tensor([[2.0, 1.5, -1.0, -1.5]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    clipped = clipped_tokens(present, old, advantages, mask, clip_low=0.5, clip_high=0.5)
    assert clipped.tolist() == [[True, False, False, True]]
    zeros = torch.zeros(1, 4)
    batch = RolloutBatch(
        prompt_ids=torch.ones(1, 1, dtype=torch.long),
        prompt_mask=torch.ones(1, 1, dtype=torch.bool),
        response_ids=torch.arange(4)[None],
        response_mask=mask,
        group_ids=torch.zeros(1, dtype=torch.long),
        prompt_uids=torch.zeros(1, dtype=torch.long),
        scores=torch.ones(1),
        truncated=torch.zeros(1, dtype=torch.bool),
        rewards=zeros,
        rollout_log_probs=old,
        old_log_probs=old,
        advantages=advantages,
        present_log_probs=present,
    )
    gate = CovarianceGate(fraction=0.25, low=0.1, high=99.0, clip_low=0.5, clip_high=0.5)
    assert gate(batch).tolist() == [[True, False, True, True]]
    wide = CovarianceGate(fraction=0.75, low=0.1, high=99.0, clip_low=1.0, clip_high=9.0)
    assert wide(batch).tolist() == [[False, False, True, False]]


# --- warm-up until the critics explain enough -----------------------------------------------------------------------


def warming(tiny_policy, tiny_critic, until, steps):
    """The learning rates at which the policy has stepped, by rollout batch: None while it did not."""
    module = loop(
        tiny_policy,
        critics=MiniCritics(tiny_critic),
        advantage=GAE(),
        critic_warmup=3,
        critic_warmup_until=until,
        updates=Updates(warmup_steps=0),
    )
    versions = []
    step = module.training_step

    def counting(*args):
        step(*args)
        versions.append(module.policy_version)

    module.training_step = counting
    run(module, steps=steps)
    return versions, module


def test_the_warm_up_ends_when_enough_is_explained(tiny_policy, tiny_critic, monkeypatch):
    explained = iter([0.1, 0.6, 0.2, 0.2, 0.2])
    monkeypatch.setattr("rl4llm.algorithms.choices.explained_variance", lambda *batch: next(explained))
    versions, module = warming(tiny_policy, tiny_critic, 0.5, steps=4)
    assert versions == [0, 0, 4, 8]
    assert module.warmed_up


def test_it_lasts_as_long_as_was_said_where_it_is_never_reached(tiny_policy, tiny_critic, monkeypatch):
    monkeypatch.setattr("rl4llm.algorithms.choices.explained_variance", lambda *batch: -1.0)
    versions, module = warming(tiny_policy, tiny_critic, 0.5, steps=4)
    assert versions == [0, 0, 0, 4]
    assert not module.warmed_up


def test_a_resumed_run_knows_that_the_warm_up_has_ended(tiny_policy, tiny_critic):
    module = loop(tiny_policy, critics=MiniCritics(tiny_critic), advantage=GAE())
    module.warmed_up, module.seed = True, 3
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    other = loop(tiny_policy, critics=MiniCritics(tiny_critic), advantage=GAE())
    other.on_load_checkpoint(checkpoint)
    assert other.warmed_up


def test_an_end_without_a_warm_up_is_refused(tiny_policy, tiny_critic):
    with pytest.raises(UsageError, match=r"warmup_until=0.5 ends a warm-up, but there is none; set .*critic_warmup=50"):
        loop(tiny_policy, critics=MiniCritics(tiny_critic), advantage=GAE(), critic_warmup_until=0.5)


# --- completions that come to no end --------------------------------------------------------------------------------


def test_unfinished_completions_score_what_was_said(unchecked_shapes):
    one = answering(Policy.load("rl4llm/digits"))
    asked = prompts(lambda prompt, response, answer: 1.0)
    batch = drawn(one, asked)
    rows, cuts = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    drawing = one.engine.generate

    def generate(*args, **options):
        out = drawing(*args, **options)
        return replace(out, ended=torch.arange(len(out)) % 2 == 0)

    one.engine.generate = generate
    scored = complete(Runtime(), one, asked, batch, rows, cuts, samples=4)
    assert scored.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    valued = complete(Runtime(), one, asked, batch, rows, cuts, samples=4, unfinished=0.0)
    assert valued.tolist() == [[1.0, 0.0, 1.0, 0.0]]


# --- what would do nothing, or mislead in silence, is refused -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": REBEL(), "advantage": None, "correction": TruncatedImportance()},
            r"correction=TruncatedImportance weights the advantages, but objective=REBEL does not read them; set --m",
        ),
        (
            {"objective": Reinforce(), "replay": FIFOReplay()},
            r"replay=FIFOReplay brings responses of earlier policies, but objective=Reinforce has no importance",
        ),
        (
            {"critics": MonteCarloValues(segmenter=FixedTokens(2)), "replay": FIFOReplay()},
            r"critics=MonteCarloValues needs the prompts of a batch, but those of replay=FIFOReplay are no longer",
        ),
        ({"critics": GreedyValue(), "replay": FIFOReplay()}, r"critics=GreedyValue needs the prompts"),
    ],
    ids=["correction", "reinforce", "vine", "greedy"],
)
def test_compositions_that_do_nothing_or_mislead_are_refused(tiny_policy, changes, message):
    with pytest.raises(UsageError, match=message):
        loop(tiny_policy, **changes)


def test_replay_goes_with_objectives_that_have_a_ratio(tiny_policy):
    loop(tiny_policy, objective=ImportanceWeighted(), advantage=GroupRelative(), replay=FIFOReplay())
