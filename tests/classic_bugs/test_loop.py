"""What the loop hands to its parts: the tokens, log-probs, rewards and groups that were really drawn."""

import pytest
import torch
from hypothesis import given, settings

from rl4llm.advantages import GAE, GroupRelative, LeaveOneOut, LengthAdaptiveGAE, MonteCarlo, Whiten
from rl4llm.algorithms import Credit, Loss, Rollout, Updates
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.judge import with_advantages, with_gates, with_rewards
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.supervised import demonstrations
from rl4llm.batch import place_scores
from rl4llm.critics import MiniCritics, ValueContext, group_shards, learns_from
from rl4llm.data import AbsoluteDifference, Example, PromptBatch, PromptData
from rl4llm.gates import AgreementGate, DivergenceFilter
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import PPOClip, TokenMean
from rl4llm.regularizers import EntropyBonus, KLPenalty, KLReward
from rl4llm.rollouts import HuggingFaceRollout, Sampling, draw_rollouts
from rl4llm.testing.strategies import rollouts
from tests.algorithms.helpers import TASK, Recording, even_length, loop, run

TEMPERATURE = 0.6


class Witness(MonteCarlo):
    """An estimator that keeps the batch and asks, before any step, what the models say of it."""

    seen = None

    def __call__(self, batch):
        module = self.module
        with torch.no_grad():
            new = module.policy(batch, temperature=TEMPERATURE).log_probs
            ref = module.reference(batch, temperature=TEMPERATURE).log_probs if module.reference else None
        object.__setattr__(self, "seen", (batch, new, ref))
        return super().__call__(batch)


def witnessed(policy, **changes):
    witness, engine = Witness(), Recording()
    changes = {"updates": Updates(minibatches=2, warmup_steps=0), "engine": engine, **changes}
    module = loop(policy, advantage=witness, sampling=Sampling(TEMPERATURE, max_response_tokens=6), **changes)
    object.__setattr__(witness, "module", module)
    if module.reference is not None:
        with torch.no_grad():
            for parameter in module.reference.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    run(module, steps=1)
    (drawn,) = engine.calls
    return module, drawn, *witness.seen


@pytest.mark.parametrize("changes", [{"kl_reward": KLReward(0.5)}, {"regularizers": {"kl": KLPenalty(0.1)}}])
def test_old_and_reference_log_probs_are_those_at_the_temperature_of_sampling(tiny_policy, changes):
    _, (_, _, drawn), batch, new, ref = witnessed(tiny_policy, **changes)
    mask = batch.response_mask
    torch.testing.assert_close(batch.old_log_probs[mask], new[mask])
    torch.testing.assert_close(batch.ref_log_probs[mask], ref[mask])
    torch.testing.assert_close(batch.old_log_probs[mask], drawn.log_probs[mask], rtol=1e-4, atol=1e-5)


def test_the_rewards_are_the_placed_scores_less_the_divergence(tiny_policy):
    _, _, batch, new, ref = witnessed(tiny_policy, kl_reward=KLReward(0.5))
    divergence = torch.where(batch.response_mask, new - ref, 0.0)
    assert divergence.abs().max() > 1e-2
    assert batch.scores.any()
    expected = place_scores(batch.scores, batch.response_mask) - 0.5 * divergence
    torch.testing.assert_close(batch.rewards, expected, rtol=1e-4, atol=1e-5)


def test_the_ids_that_were_drawn_are_the_ids_that_are_learned_from(tiny_policy):
    module, (ids, mask, drawn), batch, _, _ = witnessed(tiny_policy)
    prompt = torch.arange(len(ids)).repeat_interleave(4)
    for name, expected in {"prompt_ids": ids[prompt], "prompt_mask": mask[prompt], "group_ids": prompt}.items():
        assert torch.equal(getattr(batch, name), expected), name
    of_engine = {"response_ids": drawn.ids, "response_mask": drawn.mask, "truncated": ~drawn.ended}
    for name, expected in of_engine.items():
        assert torch.equal(getattr(batch, name), expected), name
    ends = torch.isin(batch.response_ids, torch.tensor(module.policy.end_ids)) & batch.response_mask
    assert ends.any(), "some response must end, or decoding would have nothing to lose"


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_first_step_has_ratio_one_at_the_temperature_of_sampling(tiny_policy, minibatches):
    seen = []

    class Spy(PPOClip):
        def __call__(self, policy, batch):
            ratio = (policy.log_probs - batch.old_log_probs)[batch.response_mask].detach()
            engine = (policy.log_probs - batch.rollout_log_probs)[batch.response_mask].detach()
            seen.append((float(ratio.abs().max()), float(engine.abs().max())))
            return super().__call__(policy, batch)

    updates = Updates(minibatches=minibatches, warmup_steps=0)
    run(loop(tiny_policy, objective=Spy(), sampling=Sampling(TEMPERATURE), updates=updates), steps=2)
    first_of_each_batch = seen[::minibatches]
    assert len(first_of_each_batch) == 2
    for ratio, engine in first_of_each_batch:
        assert ratio < 1e-6 if minibatches > 1 else ratio == 0.0
        assert engine < 2e-5


def test_a_step_reaches_the_policy_through_entropies_as_through_log_probs(tiny_policy):
    policy = Policy.load(tiny_policy)
    batch = _fixed(policy)
    batch = batch.replace(response_mask=batch.response_mask & (torch.arange(batch.response_mask.shape[1]) < 3))
    assert not batch.response_mask.all()
    parameters = [p for p in policy.parameters() if p.requires_grad]
    output = policy(batch, asks=("entropies",))
    inputs = torch.cat([batch.prompt_ids, batch.response_ids[:, :-1]], -1)
    logs = policy.model(inputs).logits[:, -batch.response_ids.shape[1] :].log_softmax(-1)
    plain = -(logs.exp() * logs).sum(-1)
    ours = torch.autograd.grad(output.entropies.sum(), parameters, allow_unused=True)
    expected = torch.autograd.grad(plain[batch.response_mask].sum(), parameters, allow_unused=True)
    for a, b in zip(ours, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert any(b.abs().max() > 1e-3 for b in expected if b is not None)


def _fixed(policy):
    prompts = PromptBatch([Example("12=", None, 0), Example("34=", None, 1)], TASK)
    with HuggingFaceRollout().build(policy) as engine:
        return draw_rollouts(
            engine,
            policy,
            prompts,
            responses_per_prompt=2,
            sampling=Sampling(max_response_tokens=5),
            seeds=torch.tensor([3, 4]),
        )


@pytest.mark.parametrize("end_is_pad", [False, True])
def test_demonstrations_end_once_and_their_masks_come_from_lengths(end_is_pad):
    model, tokenizer = TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()
    if end_is_pad:
        tokenizer.pad_token = tokenizer.eos_token
    policy = Policy(model, tokenizer)
    texts = ["(3)3", "7", ""]
    examples = [Example("12=", None, i, demonstration=text) for i, text in enumerate(texts)]
    batch = demonstrations(policy, PromptBatch(examples, AbsoluteDifference()))
    end = tokenizer.eos_token_id
    for row, text in enumerate(texts):
        width = len(text) + 1
        assert batch.response_mask[row].tolist() == [t < width for t in range(5)]
        assert batch.response_ids[row, :width].tolist() == [*tokenizer(text)["input_ids"], end]


ESTIMATORS = [GAE(), LengthAdaptiveGAE(alpha=0.5), MonteCarlo(), GroupRelative(), LeaveOneOut()]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@given(batch=rollouts())
@settings(max_examples=20)
def test_a_truncated_response_is_judged_like_one_that_ended(estimator, batch):
    ended, cut = (batch.replace(truncated=torch.full_like(batch.truncated, flag)) for flag in (False, True))
    for a, b in zip(estimator(ended), estimator(cut), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@given(batch=rollouts())
@settings(max_examples=20)
def test_the_identity_of_a_prompt_makes_no_group(estimator, batch):
    one, many = batch.replace(prompt_uids=torch.zeros_like(batch.prompt_uids)), batch
    a, b = (Whiten("group")(estimator(x).advantages, x) for x in (one, many))
    assert torch.equal(a, b)
    assert torch.equal(estimator(one).advantages, estimator(many).advantages)


def test_critics_share_out_the_responses_of_a_draw_whatever_its_prompt(tiny_critic):
    ensemble = MiniCritics(tiny_critic, size=2).build("")
    batch = _fixed(Policy(*TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()))
    batch = batch.replace(
        prompt_uids=torch.zeros_like(batch.prompt_uids),
        group_ids=torch.tensor([0, 1, 0, 1]),
        prompt_ids=torch.arange(4)[:, None].expand(batch.prompt_ids.shape),
        critic_values=torch.zeros(2, *batch.rewards.shape),
        returns=batch.rewards,
    )
    seen = {}
    unused = dict.fromkeys(("log_probs", "own_values", "complete", "decode"), lambda *args, **options: None)
    context = ValueContext(
        map=lambda f, rows: f(rows), minimize=lambda name, rows, loss: seen.update({name: rows}), **unused
    )
    ensemble.learn(batch, context)
    shards = group_shards(batch.group_ids, 2)
    for index in range(2):
        expected = batch.select(learns_from(shards, index)).prompt_ids[:, 0]
        assert torch.equal(seen[f"critic_{index}"].prompt_ids[:, 0], expected)
        assert sorted(seen[f"critic_{index}"].group_ids.tolist()) == [0, 1]


@given(batch=rollouts(critics=2, max_batch=3, max_time=4))
@settings(max_examples=15)
def test_no_part_changes_the_batch_it_reads(batch):
    policy = _small_policy()
    where = DivergenceFilter()
    regularizers = {"entropy": EntropyBonus(where=where), "kl": KLPenalty()}
    composition = Composition(
        Rollout(),
        Credit(advantage=GAE(), whitening=Whiten(), kl_reward=KLReward()),
        Loss(PPOClip(), gate=AgreementGate(), regularizers=regularizers, aggregator=TokenMean()),
    )
    before = {name: tensor.clone() for name, tensor in batch.tensors().items()}
    judged = with_gates(with_advantages(with_rewards(batch, composition), composition), composition)
    policy_losses(policy, composition, judged, Meter(), version=1)
    for name, tensor in batch.tensors().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def _small_policy(_made=[]):  # noqa: B006 - made once
    if not _made:
        _made.append(Policy(*TinyQwen3(hidden_size=8, layers=1, heads=1, key_value_heads=1, head_size=8).build()))
    return _made[0]


def test_prompts_are_scored_against_their_own_answers(tiny_policy):
    asked = []

    def record(prompt, response, answer):
        asked.append((prompt, answer))
        return even_length(prompt, response, answer)

    task = AbsoluteDifference(digits=3, train_size=64, reward=record)
    engine = Recording()
    module = loop(tiny_policy, engine=engine)
    run(module, steps=1, data=PromptData(task, prompts_per_step=3))
    ((ids, mask, _),) = engine.calls
    shown = [row[kept] for row, kept in zip(ids, mask, strict=True) for _ in range(4)]
    assert [prompt for prompt, _ in asked] == module.policy.tokenizer.batch_decode(shown)
    answers = {example.prompt: example.answer for example in task.examples("train")}
    assert all(answer == answers[prompt] for prompt, answer in asked)
