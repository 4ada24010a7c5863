"""Judging: log-probs, rewards, values, advantages and gates of the whole batch, and which version they are of."""

import pytest
import torch

from rl4llm.advantages import GAE, GroupRelative, MonteCarlo, Whiten
from rl4llm.algorithms import Composition, Credit, Loss, Rollout, Runtime, Updates, judge
from rl4llm.algorithms.judge import Passes, on_policy, with_log_probs
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.borders import NotFiniteError
from rl4llm.critics import ValueContext, ValueSource
from rl4llm.gates import AgreementGate, HighEntropy
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import PolicyObjective, PPOClip
from rl4llm.regularizers import KLPenalty, KLReward
from rl4llm.replay import FIFOReplay
from rl4llm.rewards import OverlongPenalty
from tests.algorithms.helpers import loop, passes, rollout, run


def forbidden(*args, **options):
    raise AssertionError("nothing asks for this")


NO_PASSES = Passes(policy=forbidden, reference=forbidden, version=0, before_update=False)
NO_CONTEXT = ValueContext(forbidden, forbidden, forbidden, forbidden, forbidden, forbidden)


def made_of(**changes):
    """A composition of some parts."""
    credit = {name: changes.pop(name) for name in list(changes) if name in Credit.__dataclass_fields__}
    objective = changes.pop("objective", PPOClip())
    return Composition(Rollout(), Credit(**credit), Loss(objective, **changes))


class Constant(ValueSource):
    """Values that are the same everywhere, or some that are not numbers."""

    def __init__(self, *critics):
        super().__init__()
        self.critics, self.learned = critics, []

    def values(self, batch, context):
        critic_values = torch.stack([torch.full_like(batch.rewards, value) for value in self.critics])
        values = critic_values.mean(0) + len(self.learned)
        return batch.replace(critic_values=critic_values, values=values.masked_fill(~batch.response_mask, 0.0))

    def learn(self, batch, context):
        self.learned.append(batch)


# --- log-probs and versions -------------------------------------------------------------------------------------------


def test_the_first_ratio_is_one_in_train_mode(tiny_policy):
    module = loop(tiny_policy, updates=Updates(minibatches=4, microbatch_tokens=64)).train()
    module.policy.train()
    batch = rollout(module, prompts=32)
    with_old = with_log_probs(batch, module.composition, passes(module))
    new = module.policy(batch.trim(), temperature=1.0).log_probs
    difference = (new - with_old.old_log_probs)[batch.response_mask].abs().max()
    assert difference < 1e-6
    assert (new - batch.rollout_log_probs)[batch.response_mask].abs().max() < 2e-6


def test_dropout_of_the_model_is_switched_off(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = TinyQwen3().build()[1]
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, resid_pdrop=0.5, attn_pdrop=0.5,
        eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    assert config.embd_pdrop > 0
    Policy(GPT2LMHeadModel(config), tokenizer).save(tmp_path)
    module = loop(str(tmp_path)).train()
    module.policy.model.train()
    batch = rollout(module)
    first, second = module.policy(batch).log_probs, module.policy(batch).log_probs
    assert torch.equal(first, second)
    assert (first - batch.rollout_log_probs)[batch.response_mask].abs().max() < 2e-6


def versions(batch, *which):
    """The batch as if its rows were of these versions, in turn."""
    of_row = torch.tensor(which).repeat(len(batch))[: len(batch)]
    return batch.replace(policy_version=of_row, old_log_probs=torch.full_like(batch.old_log_probs, -7.0))


def test_rows_of_an_older_version_keep_their_log_probs_when_judged(tiny_policy):
    module = loop(tiny_policy)
    batch = versions(rollout(module), 3, 1)
    judged = judge(batch, module.composition, passes(module, version=3))
    mask, present = batch.response_mask, batch.policy_version == 3
    assert (judged.old_log_probs[~present] == -7.0).all()
    torch.testing.assert_close(
        judged.old_log_probs[present][mask[present]], batch.rollout_log_probs[present][mask[present]], atol=2e-5, rtol=0
    )
    unjudged = judge(batch, module.composition, passes(module, before_update=False, version=3))
    assert torch.equal(unjudged.old_log_probs, batch.old_log_probs)


class Ratios(PolicyObjective):
    """Keeps the log-ratios that an objective is given."""

    paper = ""
    reads = ("advantages",)

    def __init__(self):
        self.seen, self.batches = [], []

    def __call__(self, policy, batch):
        self.batches.append(batch)
        self.seen.append((policy.log_probs - batch.old_log_probs).detach().masked_fill(~batch.response_mask, 0.0))
        return PPOClip()(policy, batch)


def test_rows_of_the_present_version_have_ratio_one_and_older_rows_their_own(tiny_policy):
    ratios = Ratios()
    module = loop(tiny_policy, objective=ratios)
    batch = versions(rollout(module), 5, 4)
    batch = judge(batch, module.composition, passes(module, before_update=False, version=5))
    present = batch.policy_version == 5
    policy_losses(module.policy, module.composition, batch, Meter(), version=5)
    assert not ratios.seen[0][present].any()
    old = ratios.seen[0][~present][batch.response_mask[~present]]
    log_probs = module.policy(batch).log_probs[~present][batch.response_mask[~present]]
    torch.testing.assert_close(old, log_probs + 7.0)
    policy_losses(module.policy, module.composition, batch, Meter(), version=None)
    assert (ratios.seen[1][batch.response_mask] != 0).all()  # trusted: every row's own


def test_the_first_step_on_fresh_rows_has_ratio_exactly_one_and_the_next_has_not(tiny_policy):
    ratios = Ratios()
    options = {"replay": FIFOReplay(capacity=64, share=0.5), "updates": Updates(minibatches=1, warmup_steps=0)}
    run(loop(tiny_policy, objective=ratios, **options), steps=2)
    first, second = ratios.seen
    replayed = ratios.batches[1].replayed
    assert not first.any()
    assert not second[~replayed].any()
    assert second[replayed].abs().max() > 1e-3


def test_rows_without_a_version_are_fresh_unless_replayed(tiny_policy):
    batch = rollout(loop(tiny_policy)).replace(policy_version=None)
    assert on_policy(batch, 9).all()
    replayed = torch.arange(len(batch)) % 2 == 0
    assert torch.equal(on_policy(batch.replace(replayed=replayed), 9), ~replayed)
    mixed = batch.replace(replayed=replayed, policy_version=torch.full_like(batch.group_ids, 9))
    assert on_policy(mixed, 9).all()  # the version says it, not how the row came here


# --- the order of things ----------------------------------------------------------------------------------------------


def test_charges_come_before_advantages_and_whitening_before_gates(tiny_policy):
    seen = []

    class Watching(HighEntropy):
        def __call__(self, batch):
            seen.append(batch)
            return super().__call__(batch)

    parts = {"advantage": GroupRelative(), "whitening": Whiten(), "gate": Watching(0.3)}
    module = loop(tiny_policy, length_penalty=OverlongPenalty(6, 5), kl_reward=KLReward(0.2), **parts)
    with torch.no_grad():
        for parameter in module.reference.parameters():
            parameter += 0.1
    batch = rollout(module)
    judged = judge(batch, module.composition, passes(module))
    old, ref = module.policy(batch).log_probs, module.reference(batch).log_probs
    charged = OverlongPenalty(6, 5)(batch) - 0.2 * torch.where(batch.response_mask, old - ref, 0.0)
    torch.testing.assert_close(judged.rewards, charged, atol=1e-5, rtol=0)
    plain = GroupRelative()(batch.replace(rewards=judged.rewards)).advantages
    torch.testing.assert_close(judged.advantages, Whiten()(plain, batch))
    assert torch.equal(seen[0].advantages, judged.advantages)
    assert torch.equal(judged.gates[0], HighEntropy(0.3)(batch))


def test_gates_stand_in_the_order_of_objective_and_regularizers(tiny_policy):
    batch = rollout(loop(tiny_policy))
    parts = {"kl": KLPenalty(0.1), "off": None, "some": KLPenalty(0.1, where=HighEntropy(0.5))}
    composition = made_of(advantage=GroupRelative(), gate=HighEntropy(0.3), regularizers=parts)
    two = Passes(policy=forbidden, reference=lambda rows, name: rows.rollout_log_probs, version=0, before_update=False)
    gates = judge(batch, composition, two).gates
    expected = [HighEntropy(0.3)(batch), batch.response_mask, HighEntropy(0.5)(batch)]
    assert torch.equal(gates, torch.stack(expected))


def test_critics_that_learn_first_are_read_again(tiny_policy):
    batch, critics = rollout(loop(tiny_policy)), Constant(0.25)
    composition = made_of(advantage=MonteCarlo())
    after = judge(batch, composition, NO_PASSES, critics, NO_CONTEXT)
    assert not critics.learned
    torch.testing.assert_close(after.values[batch.response_mask].unique(), torch.tensor([0.25]))
    first = judge(
        batch, composition, NO_PASSES, critics, NO_CONTEXT, learn=lambda rows: critics.learn(rows, NO_CONTEXT)
    )
    (seen,) = critics.learned
    assert torch.equal(seen.returns, after.returns)
    assert torch.equal(first.values, after.values + batch.response_mask)
    assert torch.equal(first.advantages, after.advantages - batch.response_mask.float())


def test_judging_needs_no_critics_no_reference_and_no_trainer(tiny_policy):
    batch = rollout(loop(tiny_policy))
    judged = judge(batch, made_of(advantage=GroupRelative()), NO_PASSES)
    assert torch.equal(judged.advantages, GroupRelative()(batch).advantages)
    assert torch.equal(judged.gates, batch.response_mask[None])
    assert torch.equal(judged.old_log_probs, batch.rollout_log_probs)
    assert Runtime().world_size == 1


# --- what is not finite -----------------------------------------------------------------------------------------------


def test_a_critic_that_gives_no_numbers_is_named(tiny_policy):
    batch = rollout(loop(tiny_policy))
    composition = made_of(advantage=GAE(), gate=AgreementGate())
    with pytest.raises(NotFiniteError) as caught:
        judge(batch, composition, NO_PASSES, Constant(0.5, float("nan")), NO_CONTEXT)
    assert (caught.value.part, caught.value.what) == ("critic_1", "values")
    assert caught.value.count == int(batch.response_mask.sum())


@pytest.mark.parametrize("part", ["policy", "reference"])
def test_a_model_whose_log_probs_are_no_numbers_is_named(tiny_policy, part):
    batch = rollout(loop(tiny_policy))
    good, bad = batch.rollout_log_probs, torch.full_like(batch.rollout_log_probs, torch.nan)
    two = Passes(
        policy=lambda rows: bad if part == "policy" else good,
        reference=lambda rows, name: bad if part == "reference" else good,
        version=0,
        before_update=True,
    )
    with pytest.raises(NotFiniteError) as caught:
        judge(batch, made_of(advantage=GroupRelative(), regularizers={"kl": KLPenalty()}), two)
    assert (caught.value.part, caught.value.what) == (part, "log-probs")


def test_numbers_where_nothing_is_trained_are_not_looked_at(tiny_policy):
    batch = rollout(loop(tiny_policy))
    odd = torch.where(batch.response_mask, batch.rollout_log_probs, torch.nan)
    two = Passes(policy=lambda rows: odd, reference=lambda rows, name: odd, version=0, before_update=True)
    judged = judge(batch, made_of(advantage=GroupRelative(), regularizers={"kl": KLPenalty()}), two)
    assert judged.advantages.isfinite().all()
