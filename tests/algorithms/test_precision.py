"""What decides is computed in float32, whatever the models run in."""

import pytest
import torch

from rl4llm.advantages import GAE, SingleStream
from rl4llm.algorithms import Updates, compose
from rl4llm.critics import BetaTracker
from rl4llm.objectives import PPOClip
from rl4llm.regularizers import Constrained, KLPenalty
from rl4llm.rollouts import HuggingFaceRollout
from tests.algorithms.helpers import Recording, Watch, critic_slots, loop, run, weights

FIELDS = ("rollout_log_probs", "old_log_probs", "ref_log_probs", "advantages", "returns", "rewards", "scores")
FIELDS += ("values", "critic_values", "entropies", "top_log_probs")


class Spy(PPOClip):
    """PPO's loss, which keeps the dtypes of all that it is given."""

    kept = []  # noqa: RUF012
    asks = ("entropies",)

    def __call__(self, policy, batch):
        given = {name: getattr(batch, name) for name in FIELDS}
        given |= {"log_probs": policy.log_probs, "own_entropies": policy.entropies}
        self.kept.append({name: x.dtype for name, x in given.items() if x is not None})
        return super().__call__(policy, batch)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_log_probs_values_and_advantages_are_float32(tiny_policy, tiny_critic, precision):
    Spy.kept.clear()
    watch, engine = Watch(), Recording(top_log_probs=3)
    part = Constrained(KLPenalty(), limit=-1.0, lr=1e-4)
    options = critic_slots(tiny_critic, updates=Updates(minibatches=2, warmup_steps=0)) | {"objective": Spy()}
    options["regularizers"] = options["regularizers"] | {"kl": part}
    module = compose(tiny_policy, engine=engine, **options)
    before = weights(module.policy)
    trainer = run(module, steps=2, precision=precision, callbacks=[watch])
    assert trainer.global_step == 2
    assert len(Spy.kept) == 4
    for dtypes in Spy.kept:
        assert len(dtypes) >= 12
        assert set(dtypes.values()) == {torch.float32}, dtypes
    assert {drawn.log_probs.dtype for _, _, drawn in engine.calls} == {torch.float32}
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in module.policy.parameters()} == {expected}
    assert not torch.equal(weights(module.policy).float(), before)
    assert module.duals["kl"].multiplier.dtype == torch.float64
    assert module.duals["kl"].multiplier != part.initial
    assert all(torch.tensor(value).isfinite() for value in watch.steps[-1].values())


def test_log_probs_of_a_policy_in_bfloat16_are_finer_than_bfloat16(tiny_policy):
    engine = Recording()
    run(loop(tiny_policy, engine=engine), steps=1, precision="bf16-true")
    ((_, _, drawn),) = engine.calls
    log_probs = drawn.log_probs[drawn.mask]
    assert (log_probs != log_probs.bfloat16()).any()


def test_a_tracker_counts_in_full_precision_under_bfloat16(tiny_policy):
    options = {"critics": BetaTracker(samples=0), "advantage": SingleStream(), "responses_per_prompt": 1}
    counts = []
    for precision in ("32-true", "bf16-true"):
        module = loop(tiny_policy, **options)
        run(module, steps=2, precision=precision)
        counts.append(module.critics.get_extra_state()["counts"])
    assert counts[1].dtype == counts[0].dtype == torch.float64


def test_a_shared_value_head_runs_in_bfloat16(tiny_policy):
    from rl4llm.critics import TrunkCritic
    from rl4llm.regularizers import ValueRegression

    parts = {"critics": TrunkCritic(), "advantage": GAE(), "regularizers": {"value": ValueRegression(0.5)}}
    assert run(loop(tiny_policy, engine=HuggingFaceRollout(), **parts), precision="bf16-true").global_step == 2


def test_supervised_training_runs_in_bfloat16(tiny_policy):
    from rl4llm.algorithms import Evaluation, Supervised
    from rl4llm.data import AbsoluteDifference, PromptData
    from rl4llm.rewards import Scoring
    from rl4llm.rollouts import Sampling
    from tests.algorithms.helpers import SGD

    module = Supervised(
        tiny_policy,
        optimizer=lambda parameters: SGD(parameters, lr=0.1),
        updates=Updates(warmup_steps=0),
        evaluation=Evaluation(samples=1),
        sampling=Sampling(max_response_tokens=6),
        scoring=Scoring(workers=0),
    )
    before, watch = weights(module), Watch()
    run(module, precision="bf16-true", data=PromptData(AbsoluteDifference(digits=3), 3), callbacks=[watch])
    assert weights(module).dtype == torch.bfloat16
    assert not torch.equal(weights(module).float(), before)
    loss = torch.tensor(watch.steps[0]["train/loss"])
    assert loss != loss.bfloat16()  # summed in float32
    assert torch.get_default_dtype() == torch.float32
