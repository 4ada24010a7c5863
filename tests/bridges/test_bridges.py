"""The bridges without the libraries on their other side: views, counts, refusals and what is imported when."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from rl4llm.advantages import GAE, GroupRelative, LeaveOneOut, Whiten
from rl4llm.batch import PolicyOutput, place_scores
from rl4llm.bridges import openrlhf, trl, verl
from rl4llm.bridges.columns import batch_of, group_numbers, inside
from rl4llm.bridges.policy_loss import PolicyLoss
from rl4llm.checks import UsageError
from rl4llm.gates import AgreementGate
from rl4llm.objectives import (
    CISPO,
    DPPO,
    GSPO,
    REBEL,
    ConstantNorm,
    MaskedImportanceWeighted,
    PPOClip,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from rl4llm.regularizers import EntropyBonus, KLPenalty, ValueRegression
from tests.bridges.ragged import assert_same_update, gradients, of_trl, ragged

AGGREGATORS = [TokenMean(), SequenceMean(), SequenceSum(), ConstantNorm(max_tokens=9)]


def shared(ours, theirs):
    """Whether two tensors lie on the same memory."""
    return ours.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()


def of_verl(batch, **changes):
    """An object like verl's `DataProto`."""
    columns = {
        "responses": batch.ids,
        "response_mask": batch.mask.long(),
        "token_level_rewards": batch.rewards,
        "old_log_probs": batch.old,
        "ref_log_prob": batch.ref,
        "values": batch.values,
        "advantages": batch.advantages,
    }
    held = {name: column for name, column in {**columns, **changes}.items() if column is not None}
    return SimpleNamespace(batch=held, non_tensor_batch={"uid": [f"p{group}" for group in batch.groups.tolist()]})


def of_openrlhf(batch, **changes):
    """An object like OpenRLHF's `Experience`."""
    columns = {
        "sequences": torch.cat([batch.ids[:, :1], batch.ids], dim=1),
        "attention_mask": torch.ones(len(batch.ids), batch.ids.shape[1] + 1, dtype=torch.long),
        "action_mask": batch.mask,
        "action_log_probs": batch.old,
        "base_action_log_probs": batch.ref,
        "rollout_log_probs": None,
        "values": batch.values,
        "returns": None,
        "advantages": batch.advantages,
        "rewards": batch.rewards.sum(-1),
        "index": list(range(len(batch.ids))),
    }
    return SimpleNamespace(**{**columns, **changes})


def test_columns_of_trl_are_views():
    inputs = of_trl(ragged(0))
    batch = trl.rollout_batch(inputs)
    pairs = {"prompt_ids": "prompt_ids", "response_ids": "completion_ids", "old_log_probs": "old_per_token_logps"}
    pairs |= {"ref_log_probs": "ref_per_token_logps", "advantages": "advantages"}
    assert all(shared(getattr(batch, ours), inputs[theirs]) for ours, theirs in pairs.items())
    assert shared(batch.rollout_log_probs, inputs["old_per_token_logps"])
    assert torch.equal(batch.advantages, inputs["advantages"][:, None].expand(batch.response_mask.shape))
    assert len(set(batch.group_ids.tolist())) == len(batch)  # TRL does not report the groups


def test_columns_of_verl_are_views():
    data = of_verl(ragged(0))
    batch = verl.rollout_batch(data)
    pairs = {"response_ids": "responses", "old_log_probs": "old_log_probs", "ref_log_probs": "ref_log_prob"}
    pairs |= {name: name for name in ("values", "advantages")} | {"rewards": "token_level_rewards"}
    assert all(shared(getattr(batch, ours), data.batch[theirs]) for ours, theirs in pairs.items())
    assert batch.group_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(batch.outcomes, data.batch["token_level_rewards"].sum(-1))


def test_columns_of_openrlhf_are_views():
    experience = of_openrlhf(ragged(0))
    batch = openrlhf.rollout_batch(experience, samples_per_prompt=4)
    pairs = {"response_ids": "sequences", "prompt_ids": "sequences", "old_log_probs": "action_log_probs"}
    pairs |= {"ref_log_probs": "base_action_log_probs", "response_mask": "action_mask", "scores": "rewards"}
    pairs |= {name: name for name in ("values", "advantages")}
    assert all(shared(getattr(batch, ours), getattr(experience, theirs)) for ours, theirs in pairs.items())
    assert torch.equal(batch.response_ids, experience.sequences[:, 1:])
    assert batch.group_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_tokens_of_tools_are_outside_the_mask():
    drawn = ragged(0)
    tools = torch.ones_like(drawn.ids)
    tools[:, 1] = 0
    batch = trl.rollout_batch(of_trl(drawn, tool_mask=tools))
    assert torch.equal(batch.response_mask, drawn.mask & (torch.arange(9) != 1))


def test_log_probs_that_vllm_could_not_give_are_those_of_the_trainer():
    drawn = ragged(0)
    sampled = drawn.ref.clone()
    sampled[0, 0] = torch.nan
    batch = trl.rollout_batch(of_trl(drawn, sampling_per_token_logps=sampled))
    assert batch.rollout_log_probs[0, 0] == drawn.old[0, 0]
    assert torch.equal(batch.rollout_log_probs[1:], drawn.ref[1:])


def test_the_present_policy_stands_for_old_log_probs_that_trl_leaves_out():
    drawn = ragged(0)
    inputs = of_trl(drawn, old_per_token_logps=None)
    batch = trl.rollout_batch(inputs, log_probs=drawn.log_probs)
    assert shared(batch.old_log_probs, drawn.log_probs)
    assert not batch.old_log_probs.requires_grad
    with pytest.raises(UsageError, match="pass these as log_probs"):
        trl.rollout_batch(inputs)


def test_a_reward_after_the_last_trained_token_is_not_lost():
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    rewards, scores = inside(torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.0, torch.nan]]), mask)
    assert rewards.tolist() == [[0.5, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert scores.tolist() == [2.5, 0.0, 1.0]


@pytest.mark.parametrize("names", [["b", "a", "b"], torch.tensor([7, 3, 7]), (7, 3, 7)])
def test_groups_are_numbered_by_their_names(names):
    assert group_numbers(names).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trl.rollout_batch({}), "the batch has no 'completion_mask' .it holds nothing."),
        (lambda: trl.rollout_batch(of_trl(ragged(0), advantages=None)), "the batch has no 'advantages'"),
        (lambda: trl.rollout_batch(of_trl(ragged(0), advantages=[1.0])), "advantages is of type list"),
        (lambda: trl.rollout_batch(of_trl(ragged(0), advantages=torch.zeros(8, 3))), "rollout_batch: .*advantages"),
        (lambda: verl.rollout_batch({}), "got dict; pass a DataProto"),
        (lambda: verl.rollout_batch(of_verl(ragged(0), responses=None)), "no 'responses'"),
        (lambda: verl.rollout_batch(of_verl(ragged(0), values=torch.zeros(8))), "values"),
        (lambda: openrlhf.rollout_batch(of_openrlhf(ragged(0), action_mask=None)), "no 'action_mask'"),
        (
            lambda: openrlhf.rollout_batch(of_openrlhf(ragged(0), index=None), samples_per_prompt=4),
            "has no `index`",
        ),
        (lambda: openrlhf.rollout_batch(of_openrlhf(ragged(0)), samples_per_prompt=0), "at least 1"),
        (lambda: verl.aggregator("mean", width=3), "unknown loss_agg_mode 'mean'"),
        (lambda: verl.register_advantage("x", GAE()), "GAE reads values"),
        (lambda: verl.register_objective("x", REBEL()), "REBEL"),
        (lambda: verl.Loss(DPPO()), "DPPO compares with the log-probs of the sampling engine"),
        (lambda: verl.Loss(MaskedImportanceWeighted()), "sampling engine"),
        (lambda: verl.Advantage(LeaveOneOut())(torch.zeros(2, 3), torch.ones(2, 3)), "index is None"),
        (lambda: openrlhf.with_advantage(dict, LeaveOneOut()), "dict has no method compute_advantages_and_returns"),
        (lambda: openrlhf.ObjectiveLoss(REBEL()), "REBEL"),
        (lambda: trl.with_parts(dict), "dict has no method _calculate_rewards"),
        (lambda: trl.with_parts(Trainer, advantage=GAE()), "GAE reads values"),
        (lambda: trl.with_parts(Trainer, whitening=Whiten()), "pass advantage too"),
        (lambda: trl.with_parts(Trainer, regularizers=(ValueRegression(),)), "ValueRegression reads returns"),
        (
            lambda: PolicyLoss(regularizers=(EntropyBonus(where=AgreementGate()),)),
            "EntropyBonus has a gate in `where`",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(call, message, unchecked_shapes):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "verl", None)
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.core_algos", None)
    with pytest.raises(UsageError, match="run pip install verl"):
        verl.register_advantage("x", LeaveOneOut())
    with pytest.raises(UsageError, match="run pip install verl"):
        verl.register_objective("x", CISPO())


def pieces_of(batch, sizes):
    """The rows of a batch in consecutive pieces."""
    splits = zip(*(column.split(sizes) for column in batch), strict=True)
    return [type(batch)(*columns) for columns in splits]


@pytest.mark.parametrize("objective", [PPOClip(), GSPO()])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_pieces_with_the_counts_of_the_step_are_the_whole(objective, aggregator):
    batch = ragged(1)
    loss = PolicyLoss(objective, aggregator, (KLPenalty(0.1), EntropyBonus(0.1)))

    def loss_of(part, counts):
        ours = trl.rollout_batch(of_trl(part))
        return loss(PolicyOutput(part.log_probs, entropies=part.entropies), ours, counts)

    counts = loss.counts(batch.mask)
    total = sum(loss_of(piece, counts) for piece in pieces_of(batch, [1, 4, 3]))
    assert_same_update(loss_of(batch, None), total, batch, tolerance=1e-7)  # counts are float32


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_pieces_of_verl_with_the_counts_of_the_step_are_the_whole(mode):
    batch, loss = ragged(1), verl.Loss(PPOClip())
    info = {"dp_size": 2, "batch_num_tokens": int(batch.mask.sum()), "global_batch_size": len(batch.mask)}

    def loss_of(part, config):
        return loss(part.old, part.log_probs, part.advantages, part.mask.long(), mode, config)[0]

    config = SimpleNamespace(global_batch_info=info)
    total = sum(loss_of(piece, config) for piece in pieces_of(batch, [1, 4, 3])) / 2  # gradients are averaged
    assert_same_update(loss_of(batch, None), total, batch)


def test_counts_that_verl_does_not_pass_are_an_error():
    batch, stale = ragged(1), SimpleNamespace(global_batch_info={"dp_size": 2})
    given = (batch.old, batch.log_probs, batch.advantages, batch.mask, "token-mean")
    with pytest.raises(UsageError, match="dp_size is 2"):
        verl.Loss(PPOClip())(*given, stale)


def test_an_estimator_is_called_as_verl_calls_it():
    batch = ragged(0)
    index = [f"p{group}" for group in batch.groups.tolist()]
    function = verl.Advantage(GroupRelative(), Whiten())
    advantages, returns = function(
        token_level_rewards=batch.rewards, response_mask=batch.mask.long(), index=index, config=None
    )
    ours = verl.rollout_batch(of_verl(batch))
    assert torch.equal(advantages, Whiten()(GroupRelative()(ours).advantages, ours))
    assert torch.equal(returns, advantages)


def test_openrlhf_logs_the_share_of_tokens_without_gradient():
    ones = torch.zeros(1, 4)
    old = ones - 2
    given = (old + torch.tensor([0.0, 1.0, 1.0, -1.0]), old, torch.tensor([[1.0, 1.0, -1.0, 0.0]]), ones == 0)
    loss, dropped, *_ = openrlhf.ObjectiveLoss(PPOClip())(*given)
    assert dropped == pytest.approx(1 / 3)  # the second; the fourth has no advantage
    assert loss.isfinite()


def test_an_objective_of_the_engine_needs_its_log_probs():
    batch, loss = ragged(0), openrlhf.ObjectiveLoss(DPPO())
    given = (batch.log_probs, batch.old, batch.advantages, batch.mask)
    with pytest.raises(UsageError, match="DPPO reads rollout_log_probs, got None"):
        loss(*given)
    assert loss(*given, rollout_log_probs=batch.ref)[0].isfinite()


def test_what_is_unknown_has_no_effect_on_a_loss():
    batch = ragged(0)
    ours = batch_of("test", batch.mask, {"advantages": batch.advantages, "old_log_probs": batch.old})
    assert ours.scores.isnan().all()
    assert gradients(PolicyLoss(PPOClip())(PolicyOutput(batch.log_probs), ours), batch)[0].isfinite().all()


class Maker:
    """A stand-in with the method of OpenRLHF's experience maker that an estimator takes over."""

    def __init__(self, clip_range=None):
        self.args = SimpleNamespace(
            rollout=SimpleNamespace(n_samples_per_prompt=4), reward=SimpleNamespace(clip_range=clip_range)
        )
        self.kl_ctl = SimpleNamespace(value=0.5)

    def compute_advantages_and_returns(self, experiences):
        for one in experiences:
            one.rewards, one.kl = one.rewards + 1, None  # a penalty on length, say; the charge is not kept
        return experiences


@pytest.mark.parametrize("clip_range", [None, (0.5, 1.5)])
def test_an_experience_maker_takes_our_advantages(clip_range):
    drawn = ragged(0)
    maker = openrlhf.with_advantage(Maker, GroupRelative(normalize_std=False), whitening=Whiten())(clip_range)
    experiences = []
    for rows, width in ((torch.tensor([6, 1, 4]), 9), (torch.tensor([0, 7, 2, 5, 3]), 7)):
        own = type(drawn)(*(column[rows] for column in drawn))
        own = own._replace(**{name: getattr(own, name)[:, :width] for name in ("ids", "mask", "old", "ref", "values")})
        kl = (own.old - own.ref).where(own.mask, 9.0)
        advantages = torch.zeros(len(rows), width)
        experiences.append(of_openrlhf(own, kl=kl, index=rows.tolist(), advantages=advantages))
    counted = drawn.mask & (torch.arange(9) < torch.tensor([7, 9, 7, 7, 9, 7, 9, 7])[:, None])
    found = maker.compute_advantages_and_returns(experiences)
    scores = drawn.rewards.sum(-1) + 1
    scores = scores if clip_range is None else scores.clamp(*clip_range)
    rewards = place_scores(scores, counted) - 0.5 * (drawn.old - drawn.ref).where(counted, 0.0)
    columns = {"scores": scores, "rewards": rewards, "group_ids": drawn.groups}
    ours = batch_of("test", counted, columns)
    expected = Whiten()(GroupRelative(normalize_std=False)(ours).advantages, ours)
    for one, rows in zip(found, (torch.tensor([6, 1, 4]), torch.tensor([0, 7, 2, 5, 3])), strict=True):
        width = one.action_mask.shape[1]
        torch.testing.assert_close(one.advantages, expected[rows][:, :width], rtol=1e-12, atol=1e-12)
        assert torch.equal(one.returns, one.advantages)


@pytest.mark.parametrize("count", [{"batch_num_tokens": 40.0}, {"batch_num_tokens": 40.0, "dp_size": 4}])
def test_the_loss_of_openrlhf_is_divided_by_the_count_of_the_step(count):
    batch = ragged(0)
    given = (batch.log_probs, batch.old, batch.advantages, batch.mask)
    alone = openrlhf.ObjectiveLoss(PPOClip())(*given)[0] * batch.mask.sum()
    loss, _, divergence, *_ = openrlhf.ObjectiveLoss(PPOClip())(*given, **count, global_batch_size=3.0)
    assert_same_update(alone / 40 * count.get("dp_size", 1), loss, batch)
    assert divergence == pytest.approx(float((batch.old - batch.log_probs)[batch.mask].mean()))


def test_weights_of_verl_multiply_the_advantages():
    batch = ragged(0)
    weights = batch.values.abs()
    loss, _ = verl.Loss(PPOClip())(batch.old, batch.log_probs, batch.advantages, batch.mask, rollout_is_weights=weights)
    expected, _ = verl.Loss(PPOClip())(batch.old, batch.log_probs, batch.advantages * weights, batch.mask)
    assert_same_update(expected, loss, batch)


class Trainer:
    """A stand-in with the methods of TRL's `GRPOTrainer` that the parts take over; one process, two microbatches."""

    def __init__(self, batch, beta=0.0, steps=2):
        self.args = Arguments(beta=beta, gradient_accumulation_steps=steps)
        self.beta, self.num_generations, self.num_generations_eval = beta, 4, 4
        self.accelerator = SimpleNamespace(
            process_index=0,
            gather=lambda x: x,
            pad_across_processes=lambda x, dim: x,
            reduce=lambda x, reduction: {"mean": x}[reduction],  # gradients are averaged over the processes
        )
        self.model = SimpleNamespace(training=True)
        self.reward_weights = torch.tensor([1.0, 0.5])
        self.current_gradient_accumulation_steps = steps
        self._step, self._metrics = 0, {"train": {"entropy": [], "approximate_kl": []}}
        self.batch, self.output, self._buffered_inputs = batch, None, []

    def _calculate_rewards(self):
        scores = self.batch.rewards.sum(-1)
        return torch.stack([scores, 2 * scores], dim=1)

    def _generate_and_score_completions(self, inputs):
        self._calculate_rewards()
        return of_trl(self.batch) if self.output is None else self.output

    def _get_per_token_logps_and_entropies(self, model, ids, attended, width, compute_entropy, **_):
        return model.log_probs, model.entropies, None

    def _compute_loss(self, model, inputs):
        raise AssertionError("the parts take this over")


@dataclass
class Arguments:
    """Settings with TRL's defaults."""

    beta: float = 0.0
    gradient_accumulation_steps: int = 2
    steps_per_generation: int = 2
    use_bias_correction_kl: bool = False
    epsilon: float = 0.2
    loss_type: str = "dapo"
    scale_rewards: str = "group"


def test_a_trainer_with_parts_takes_our_advantages_and_keeps_scores_and_groups():
    drawn = ragged(0)
    output = trl.with_parts(Trainer, advantage=LeaveOneOut())(drawn)._generate_and_score_completions([])
    assert torch.equal(output["scores"], 2 * drawn.rewards.sum(-1))
    columns = {"scores": output["scores"], "group_ids": drawn.groups}
    expected = LeaveOneOut()(batch_of("test", drawn.mask, columns)).advantages
    assert torch.equal(output["advantages"], expected)
    assert torch.equal(trl.rollout_batch(output).group_ids, drawn.groups)


def test_groups_are_compared_over_the_processes():
    drawn, widths = ragged(0), (9, 5)  # the second process has shorter responses
    drawn = drawn._replace(mask=drawn.mask & (torch.arange(9) < torch.tensor([9] * 3 + [5] * 5)[:, None]))
    ours = trl.with_parts(Trainer, advantage=LeaveOneOut())
    found = []
    for process, rows in enumerate((slice(0, 4), slice(4, 8))):
        trainer = ours(drawn)
        own = type(drawn)(*(column[rows] for column in drawn))
        own = own._replace(mask=own.mask[:, : widths[process]], ids=own.ids[:, : widths[process]])
        trainer.accelerator.process_index = process
        trainer.accelerator.gather = lambda x: drawn.mask.int()  # what the processes hold together
        trainer.num_generations = 8
        trainer.batch = drawn
        trainer.output = of_trl(own)
        found.append(trainer._generate_and_score_completions([]))
    columns = {"scores": 2 * drawn.rewards.sum(-1), "group_ids": torch.zeros(8, dtype=torch.long)}
    expected = LeaveOneOut()(batch_of("test", drawn.mask, columns)).advantages
    assert torch.equal(found[0]["advantages"], expected[:4])
    assert torch.equal(found[1]["advantages"], expected[4:, :5])
    assert torch.equal(found[1]["scores"], columns["scores"][4:])


def test_settings_are_checked_before_a_model_is_loaded():
    class Slow(Trainer):
        def __init__(self, *given, **named):
            raise AssertionError("too late")

    with pytest.raises(UsageError, match="epsilon"):
        trl.with_parts(Slow)("model", args=Arguments(epsilon=0.1))


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_microbatches_of_a_trainer_with_parts_are_one_step(aggregator, beta):
    drawn = ragged(0)
    trainer = trl.with_parts(Trainer, objective=CISPO(), aggregator=aggregator)(drawn, beta=beta)
    pieces = pieces_of(drawn, [2, 6])
    trainer._buffered_inputs = [of_trl(piece) for piece in pieces]
    total = 0.0
    for trainer._step, piece in enumerate(pieces):
        total = total + trainer._compute_loss(piece, trainer._buffered_inputs[trainer._step])
    whole = PolicyLoss(CISPO(), aggregator, (KLPenalty(beta, estimator="k3"),))
    expected = whole(PolicyOutput(drawn.log_probs), trl.rollout_batch(of_trl(drawn)))
    assert_same_update(expected, total, drawn, tolerance=1e-7)  # counts are float32


def test_settings_that_the_parts_replace_are_refused():
    def check(trainer_class, **settings):
        trainer_class.parts.check(Arguments(**settings))

    ours = trl.with_parts(Trainer)
    check(ours, scale_rewards="none")  # of TRL's advantages, which stay
    with pytest.raises(UsageError, match=r"GRPOConfig\(epsilon=0.1\)"):
        check(ours, epsilon=0.1)
    with pytest.raises(UsageError, match=r"GRPOConfig\(scale_rewards='none'\)"):
        check(trl.with_parts(Trainer, advantage=LeaveOneOut()), scale_rewards="none")
    with pytest.raises(UsageError, match="steps_per_generation=3"):
        check(ours, steps_per_generation=3)
    with pytest.raises(UsageError, match="use_bias_correction_kl"):
        check(ours, beta=0.1, use_bias_correction_kl=True)
    with pytest.raises(UsageError, match="KLPenalty reads ref_log_probs"):
        check(trl.with_parts(Trainer, regularizers=(KLPenalty(),)))
