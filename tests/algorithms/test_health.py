"""What goes wrong is skipped, named, counted and ends the run when nothing else happens."""

from pathlib import Path

import pytest
import torch

from rl4llm.algorithms import Guards, Updates, compose
from rl4llm.algorithms.health import Health
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.data import AbsoluteDifference, PromptData
from rl4llm.objectives import PolicyObjective, PPOClip
from rl4llm.regularizers import Constrained, RatioPenalty
from tests.algorithms.helpers import SGD, Watch, critic_slots, loop, rollout, run, weights

NAN = float("nan")


class Broken(PolicyObjective):
    """PPO's loss, spoiled in the calls that `when` names (counted from 0), in its value or its gradient alone."""

    paper = ""
    reads = ("advantages",)

    def __init__(self, when, how="loss"):
        self.when, self.how, self.calls = when, how, 0

    def __call__(self, policy, batch):
        loss, wrong = PPOClip()(policy, batch), self.when(self.calls)
        self.calls += 1
        if not wrong:
            return loss
        return loss * NAN if self.how == "loss" else loss + Spoiled.apply(policy.log_probs)


class Spoiled(torch.autograd.Function):
    """0 with a gradient that is not a number."""

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * NAN


ONE_STEP = Updates(minibatches=1, warmup_steps=0, schedule="constant")


# --- skipped steps ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Batches that are dumped land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("how", "what"), [("loss", "loss is nan"), ("gradient", "gradient's norm is nan")])
def test_a_step_that_is_not_finite_is_skipped_named_and_counted(tiny_policy, how, what):
    watch = Watch()
    module = loop(tiny_policy, objective=Broken(lambda call: call == 0, how), updates=ONE_STEP)
    before = weights(module.policy)
    with pytest.warns(UserWarning, match=rf"policy: {what}; the step is skipped and counted in skipped/policy"):
        trainer = run(module, steps=1, callbacks=[watch])
    assert torch.equal(weights(module.policy), before)
    assert module.policy_version == 0
    assert watch.steps[0]["skipped/policy"] == 1.0
    assert trainer.global_step == 1  # the batch counts, the step was not made
    assert not trainer.optimizers[0].state  # nor do its moments know of it


def test_a_skipped_minibatch_leaves_the_others_of_the_batch_their_steps(tiny_policy):
    watch = Watch()
    broken = Broken(lambda call: call in (0, 2))
    module = loop(tiny_policy, objective=broken, updates=Updates(minibatches=4, warmup_steps=0), guards=Guards(2))
    with pytest.warns(UserWarning, match="policy: loss is nan"):
        run(module, steps=2, callbacks=[watch])
    assert module.policy_version == 6
    assert [step["skipped/policy"] for step in watch.steps] == [2.0, 2.0]
    assert weights(module.policy).isfinite().all()


def test_a_skipped_step_leaves_the_weight_of_a_constraint_as_it_was(tiny_policy):
    part = Constrained(RatioPenalty(), limit=-1.0, initial=0.5, lr=1.0)
    module = loop(tiny_policy, objective=Broken(lambda call: call == 0), regularizers={"ratio": part}, updates=ONE_STEP)
    with pytest.warns(UserWarning, match="policy: loss is nan"):
        run(module, steps=1)
    assert float(module.duals["ratio"].multiplier) == 0.5

    class Infinite(RatioPenalty):
        calls = []  # noqa: RUF012

        def __call__(self, policy, batch):
            self.calls.append(1)
            return super().__call__(policy, batch) * (float("inf") if len(self.calls) == 1 else 1.0)

    part = Constrained(Infinite(), limit=-1.0, initial=0.5, lr=1.0)
    module = loop(tiny_policy, regularizers={"ratio": part}, updates=Updates(minibatches=2, warmup_steps=0))
    with pytest.warns(UserWarning, match="policy: loss is nan"):
        run(module, steps=1)
    assert float(module.duals["ratio"].multiplier) == pytest.approx(1.5, abs=0.1)


def test_steps_that_are_skipped_in_a_row_end_the_run_with_the_batch_in_its_folder(tiny_policy, tmp_path):
    module = loop(tiny_policy, objective=Broken(lambda call: True), updates=ONE_STEP, guards=Guards(skipped=3))
    with (
        pytest.warns(UserWarning, match="policy: loss is nan"),
        pytest.raises(UsageError, match=r"policy: loss is nan; 3 steps in a row were skipped\. Lower .*lr") as caught,
    ):
        run(module, steps=9, default_root_dir=tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert module.drawn == 3
    path = tmp_path / "new" / "skipped_batch.pt"
    assert str(path) in str(caught.value)
    batch = RolloutBatch(**torch.load(path, weights_only=True))
    assert len(batch) == 12
    assert batch.advantages is not None


def test_a_batch_that_cannot_be_written_does_not_hide_why_the_run_ends(tmp_path, tiny_policy):
    (tmp_path / "file").write_text("")
    health, batch = Health(Guards(skipped=1), lambda: tmp_path / "file"), rollout(loop(tiny_policy))
    with (
        pytest.warns(UserWarning, match="critic_0: loss is nan"),
        pytest.raises(UsageError, match=r"critic_0: loss is nan; 1 steps .*critic_optimizer\.lr.*\(not written"),
    ):
        health.skip("critic_0", "loss is nan", batch)


def test_a_critic_that_gives_no_numbers_costs_the_batch_and_is_named(tiny_policy, tiny_critic):
    watch = Watch()
    module = compose(tiny_policy, **critic_slots(tiny_critic))
    critic, calls = module.critics.critics[1], []
    outputs = critic.outputs
    critic.outputs = lambda *a: (calls.append(1), outputs(*a) * (NAN if len(calls) == 1 else 1.0))[1]
    before = weights(module)
    kept = []

    class First(Watch):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            kept.append((weights(module), trainer.global_step))

    with pytest.warns(UserWarning, match=r"critic_1: \d+ values are not finite.*skipped/critic_1"):
        trainer = run(module, steps=1, callbacks=[watch, First()])
    assert torch.equal(kept[0][0], before)
    assert kept[0][1] == 0
    assert watch.steps[-1]["skipped/critic_1"] == 1.0
    assert (trainer.global_step, module.drawn) == (1, 2)
    assert module.health.in_a_row == {"policy": 0, "critic_0": 0, "critic_1": 0}


def test_a_critic_whose_loss_is_no_number_does_not_hold_up_the_policy(tiny_policy, tiny_critic):
    watch = Watch()
    module = compose(tiny_policy, **critic_slots(tiny_critic, guards=Guards(skipped=100)))
    module.critics._losses = lambda index, rows: module.critics.critics[index](rows) * NAN
    policy, critics = weights(module.policy), weights(module.critics)
    with pytest.warns(UserWarning, match=r"critic_\d: loss is nan"):
        run(module, steps=1, callbacks=[watch])
    assert torch.equal(weights(module.critics), critics)
    assert not torch.equal(weights(module.policy), policy)
    assert watch.steps[0]["skipped/critic_0"] == watch.steps[0]["skipped/critic_1"] == 4.0
    assert "skipped/policy" not in watch.steps[0]


def test_a_part_that_never_steps_is_only_counted_in_a_row(tiny_policy, tmp_path):
    from rl4llm.advantages import GroupRelative

    class Sometimes(GroupRelative):
        calls = []  # noqa: RUF012

        def __call__(self, batch):
            self.calls.append(1)
            found = super().__call__(batch)
            return found._replace(advantages=found.advantages * (NAN if len(self.calls) % 2 else 1.0))

    module = loop(tiny_policy, advantage=Sometimes(), guards=Guards(skipped=2))
    with pytest.warns(UserWarning, match="Sometimes: .* advantages are not finite"):
        run(module, steps=3)
    assert module.health.skipped == {"Sometimes": 3}
    module = loop(tiny_policy, advantage=Sometimes(), guards=Guards(skipped=1))
    module.composition.credit.advantage.calls.clear()
    with (
        pytest.warns(UserWarning, match="Sometimes"),
        pytest.raises(UsageError, match=r"Sometimes: .*1 steps in a row"),
    ):
        run(module, steps=3, default_root_dir=tmp_path)


def test_the_skips_of_a_learner_go_on_in_a_row_although_its_values_are_finite(tmp_path, tiny_policy):
    health, batch = Health(Guards(skipped=2), lambda: tmp_path), rollout(loop(tiny_policy))
    with pytest.warns(UserWarning, match="critic_0"):
        health.skip("critic_0", "loss is nan", batch)
    health.judged(["policy", "critic_0"])
    with pytest.raises(UsageError, match="2 steps in a row"):
        health.skip("critic_0", "loss is nan", batch)


# --- weights that are lost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["policy", "critic_0"])
def test_weights_beyond_a_million_end_the_run_before_anything_is_saved(tiny_policy, tiny_critic, part, tmp_path):
    import lightning

    class Saving(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
            trainer.save_checkpoint(tmp_path / "after.ckpt")

    slots = critic_slots(tiny_critic, critic_updates=ONE_STEP) | {"updates": ONE_STEP}
    slots["optimizer" if part == "policy" else "critic_optimizer"] = lambda parameters: SGD(parameters, lr=1e30)
    with pytest.raises(UsageError, match=rf"{part}: a weight has reached .*e\+\d\d, so the model is lost\. Lower "):
        run(compose(tiny_policy, **slots), steps=2, callbacks=[Saving()])
    assert not (tmp_path / "after.ckpt").exists()


@pytest.mark.parametrize("value", [NAN, float("inf"), 1.1e6, -1.1e6])
def test_one_lost_weight_on_any_rank_is_found_by_all(value):
    health = Health(Guards(), Path)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    health.check_weights("policy", module, lambda own: [own])
    with pytest.raises(UsageError, match="a weight has reached"):
        health.check_weights("policy", module, lambda own: [own, abs(value)])
    module[1].weight.data[1, 2] = value
    with pytest.raises(UsageError, match="a weight has reached"):
        health.check_weights("policy", module, lambda own: [own, 0.1])


# --- responses that cannot be scored ----------------------------------------------------------------------------------


def no_score(prompt, response, answer):
    raise RuntimeError("the verifier is down")


def test_a_reward_that_never_scores_warns_at_once_and_ends_the_run(tiny_policy):
    data = PromptData(AbsoluteDifference(digits=3, train_size=64, reward=no_score), prompts_per_step=3)
    module = loop(tiny_policy, guards=Guards(unscorable=2))
    with (
        pytest.warns(UserWarning, match="reward 'no_score' could not score 12 of 12 responses") as seen,
        pytest.raises(UsageError, match=r"'no_score' could not score any response of 2 rollout batches.*verifier is"),
    ):
        run(module, steps=9, data=data)
    assert module.drawn == 2
    assert len([w for w in seen if "could not score" in str(w.message)]) == 1


def mine(response, answer):
    return None


def test_ever_new_reasons_are_listed_a_few_times_only(tiny_policy):
    health, batch = Health(Guards(), Path), rollout(loop(tiny_policy))
    reasons = [
        {f"raised Error{n}, for example 'x, y'": 1 for n in range(start, start + 3)} for start in range(0, 60, 3)
    ]
    with pytest.warns(UserWarning, match="could not score") as seen:
        [health.scored(batch, some, mine) for some in reasons]
    assert len(seen) == 6
    assert str(seen[-1].message) == "reward 'mine' keeps failing for new reasons, of which no more are listed."


def test_only_batches_in_a_row_without_any_score_end_the_run(tiny_policy):
    health, batch = Health(Guards(unscorable=2), Path), rollout(loop(tiny_policy))
    nothing = batch.replace(scores=torch.full_like(batch.scores, NAN))
    some = batch.replace(scores=torch.where(torch.arange(len(batch)) == 0, batch.scores, NAN))
    reasons = {"returned None": 16}
    with pytest.warns(UserWarning, match=r"could not score 16 of 16 responses \(returned None\)"):
        health.scored(nothing, reasons, mine)
    for found in (some, nothing, batch, nothing):
        health.scored(found, {} if found is batch else reasons, mine)
    with pytest.raises(UsageError, match=r"'mine' could not score any response of 2 .*--model\.guards\.unscorable"):
        health.scored(nothing, reasons, mine)
