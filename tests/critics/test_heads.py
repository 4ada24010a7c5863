"""Heads: what a critic's outputs say, what it minimizes, and critics that hold each of them."""

import math

import pytest
import torch
from hypothesis import given, settings

from rl4llm.checks import UsageError
from rl4llm.critics import (
    BoundedHead,
    ClippedValueLoss,
    HistogramHead,
    LinearHead,
    MiniCritics,
    QuantileHead,
    SigmoidHead,
    SquaredValueLoss,
    SymmetricCritic,
    TrunkCritic,
    ValueHead,
    ValueModel,
    binary_value_loss,
    bounded_value,
    hl_gauss_loss,
    hl_gauss_value,
    quantile_loss,
    value_loss,
)
from rl4llm.models import Policy, TinyQwen3
from rl4llm.testing.strategies import rollouts
from tests.models.test_models import a_batch

FEWER = settings(max_examples=settings.default.max_examples // 3)
HEADS = [
    LinearHead(),
    BoundedHead(low=-1.0, high=3.0),
    SigmoidHead(),
    HistogramHead(low=-1.0, high=3.0, bins=5, sigma=0.5, target="density"),
    QuantileHead(count=4, kappa=0.3),
]
MIDDLES = [0.0, 1.0, 0.5, 1.0, 0.0]
each_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)


@pytest.fixture(scope="module")
def backbone():
    return TinyQwen3(hidden_size=16, layers=1, heads=2, key_value_heads=1, head_size=8).build()[0].model


def with_targets(batch):
    """A batch with returns in [0, 1] that differ by row, and scores."""
    returns = torch.linspace(0, 1, len(batch))[:, None].expand(batch.response_mask.shape).clone()
    return batch.replace(returns=returns, scores=returns[:, 0].clone())


def outputs_of(head, batch):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*batch.response_mask.shape, head.size, generator=generator, dtype=torch.float64)


@FEWER
@given(rollouts())
def test_a_head_is_its_functions(batch):
    linear, bounded, sigmoid, histogram, quantile = HEADS
    batch = batch.replace(returns=batch.returns.sigmoid())
    mask, returns = batch.scored_mask, batch.returns
    z = outputs_of(linear, batch)
    assert torch.equal(linear.value(z), z[..., 0])
    assert torch.equal(linear.loss(z, batch), value_loss(z[..., 0], returns, mask))
    value = bounded_value(z[..., 0], low=-1.0, high=3.0)
    assert torch.equal(bounded.value(z), value)
    assert torch.equal(bounded.loss(z, batch), value_loss(value, returns, mask))
    assert torch.equal(sigmoid.value(z), z[..., 0].sigmoid())
    assert torch.equal(sigmoid.loss(z, batch), binary_value_loss(z[..., 0], returns, mask))
    z, support = outputs_of(histogram, batch), {"low": -1.0, "high": 3.0}
    assert torch.equal(histogram.value(z), hl_gauss_value(z, **support))
    expected = hl_gauss_loss(z, returns, mask, **support, sigma=0.5, target="density")
    assert torch.equal(histogram.loss(z, batch), expected)
    z = outputs_of(quantile, batch)
    assert torch.equal(quantile.value(z), z.mean(-1))
    assert torch.equal(quantile.loss(z, batch), quantile_loss(z, returns, mask, kappa=0.3))


@each_head
def test_nothing_is_learned_from_a_response_that_could_not_be_scored(head):
    batch = with_targets(a_batch())
    scores = batch.scores.clone()
    scores[1] = math.nan
    garbage = batch.replace(scores=scores, returns=batch.returns.index_fill(0, torch.tensor(1), math.nan))
    loss, clean = (head.loss(outputs_of(head, batch), rows) for rows in (garbage, batch))
    assert not loss[1].any()
    assert torch.equal(loss[[0, 2, 3, 4]], clean[[0, 2, 3, 4]])
    with pytest.raises(UsageError, match=rf"^{type(head).__name__} needs returns"):
        head.loss(outputs_of(head, batch), batch.replace(returns=None))


@each_head
def test_a_layer_of_scale_zero_starts_all_values_at_the_middle(head):
    layer = ValueHead(8, head, scale=0.0)
    assert layer.affine.weight.shape == (head.size, 8)
    value = head.value(layer(torch.randn(2, 3, 8)))
    torch.testing.assert_close(value, torch.full((2, 3), MIDDLES[HEADS.index(head)]))


def test_the_scale_of_a_layer_is_that_of_its_outputs():
    layer = ValueHead(400, QuantileHead(count=200), scale=0.5, generator=torch.Generator().manual_seed(0))
    assert layer.affine.weight.std().item() * 400**0.5 == pytest.approx(0.5, rel=0.02)
    assert not layer.affine.bias.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoundedHead(low=1.0), r"^BoundedHead: low must be below high and both finite, got low=1.0, high=1.0"),
        (lambda: HistogramHead(high=-0.1), r"^HistogramHead: low must be below high"),
        (lambda: HistogramHead(bins=1), r"^HistogramHead: bins must be a whole number of at least 2, got 1"),
        (lambda: HistogramHead(sigma=0.0), r"^HistogramHead: sigma must be in \(0, inf\)"),
        (lambda: HistogramHead(target="peak"), r"^HistogramHead: target must be one of 'mass', 'density', got 'peak'"),
        (lambda: QuantileHead(count=0), r"^QuantileHead: count must be a whole number of at least 1, got 0"),
        (lambda: QuantileHead(kappa=0.0), r"^QuantileHead: kappa must be in \(0, inf\)"),
        (lambda: MiniCritics(inputs="answer"), r"^MiniCritics: inputs must be one of 'prefix', 'prompt', got 'answer'"),
        (lambda: SymmetricCritic(inputs="answer"), r"^SymmetricCritic: inputs must be one of 'prefix', 'prompt'"),
    ],
)
def test_options_are_checked(unchecked_shapes, make, message):
    with pytest.raises(UsageError, match=message):
        make()


# --- models that hold a head ----------------------------------------------------------------------------------------


@each_head
@pytest.mark.parametrize("inputs", ["prefix", "prompt"])
def test_a_model_reads_its_values_from_its_outputs(backbone, head, inputs):
    model, batch = ValueModel(backbone, head, inputs=inputs), a_batch()
    outputs = model.outputs(batch)
    assert outputs.shape == (*batch.response_mask.shape, head.size)
    assert outputs.dtype == torch.float32
    values = model(batch)
    assert torch.equal(values, torch.where(batch.response_mask, head.value(outputs), 0.0))
    empty = batch.replace(**{n: t[:, :0] for n, t in batch.tensors().items() if t.shape == (5, 6)})
    assert model(empty).shape == (5, 0)


@each_head
def test_a_prompt_model_sees_the_prompt_alone(backbone, head):
    model, batch = ValueModel(backbone, head, inputs="prompt"), a_batch()
    values = model(batch)
    edited = batch.replace(response_ids=(batch.response_ids + 5) % 13 + 2)
    assert torch.equal(model(edited), values)
    longer = batch.replace(response_mask=torch.ones_like(batch.response_mask))
    assert torch.equal(model(longer), model(longer)[:, :1].expand(values.shape))
    assert torch.equal(torch.where(batch.response_mask, model(longer), 0.0), values)
    for row in range(len(batch)):  # its value is that of the prefix before the first token
        prompt = batch.prompt_ids[row][batch.prompt_mask[row]]
        hidden = model.backbone(prompt[None]).last_hidden_state[:, -1:]
        torch.testing.assert_close(model(longer)[row, :1], head.value(model.head(hidden))[0])
    moved = batch.prompt_ids.clone()
    moved[:, -1] = (moved[:, -1] - 1) % 13 + 2
    assert (model(batch.replace(prompt_ids=moved)) != values)[batch.response_mask].all()


def test_a_prompt_model_and_a_prefix_model_agree_on_the_first_token(backbone):
    prefix = ValueModel(backbone, generator=torch.Generator().manual_seed(0))
    prompt = ValueModel(backbone, inputs="prompt", generator=torch.Generator().manual_seed(0))
    batch = a_batch()
    torch.testing.assert_close(prompt(batch)[:, 0], prefix(batch)[:, 0])


def test_the_context_of_a_prompt_model_holds_the_prompt_alone(tiny_critic):
    batch = a_batch()
    longest = batch.prompt_mask.shape[1]
    sizes = {"hidden_size": 8, "layers": 1, "heads": 1, "key_value_heads": 1, "head_size": 8}
    fits, short = (TinyQwen3(**sizes, context=context).build()[0].model for context in (longest, longest - 1))
    ValueModel(fits, inputs="prompt")(batch)
    with pytest.raises(UsageError, match=rf"context of {longest - 1} tokens, but the prompt takes {longest}; shorten"):
        ValueModel(short, inputs="prompt")(batch)
    with pytest.raises(UsageError, match=r"but prompt and response take \d+; lower max_response_tokens, shorten"):
        ValueModel(fits)(batch)
    MiniCritics(tiny_critic, inputs="prompt").check_context(10**6)
    with pytest.raises(UsageError, match="has a context of 64 tokens"):
        MiniCritics(tiny_critic).check_context(10**6)


# --- ensembles ------------------------------------------------------------------------------------------------------


@each_head
@pytest.mark.parametrize("spec", [MiniCritics, SymmetricCritic])
def test_a_choice_hands_its_head_to_its_critics(head, spec, tiny_critic):
    ensemble = (MiniCritics(tiny_critic, head=head) if spec is MiniCritics else spec(head=head)).build(tiny_critic)
    for critic in ensemble.critics:
        assert critic.head.choice == head
        assert critic.inputs == "prefix"
    zero = (MiniCritics(tiny_critic, head=head, head_scale=0.0)).build(tiny_critic)(a_batch())
    expected = torch.where(a_batch().response_mask, MIDDLES[HEADS.index(head)], 0.0)
    torch.testing.assert_close(zero, expected.expand(2, -1, -1))


@each_head
def test_without_a_loss_of_its_own_an_ensemble_minimizes_that_of_the_head(head, tiny_critic):
    ensemble, batch = MiniCritics(tiny_critic, head=head).build(tiny_critic), with_targets(a_batch())
    critic = ensemble.critics[1]
    assert torch.equal(ensemble._losses(1, batch), head.loss(critic.outputs(batch), batch))


@each_head
def test_a_given_loss_reads_the_values_of_the_head(head, tiny_critic):
    batch = with_targets(a_batch())
    batch = batch.replace(values=batch.returns / 2)
    for loss in (SquaredValueLoss(), ClippedValueLoss()):
        ensemble = MiniCritics(tiny_critic, head=head, loss=loss).build(tiny_critic)
        assert torch.equal(ensemble._losses(0, batch), loss(ensemble.critics[0](batch), batch))


@each_head
def test_every_weight_of_a_critic_learns(head, tiny_critic):
    ensemble, batch = MiniCritics(tiny_critic, head=head, head_scale=1.0).build(tiny_critic), with_targets(a_batch())
    ensemble._losses(0, batch).sum().backward()
    assert all(parameter.grad.any() for parameter in ensemble.critics[0].parameters())
    assert all(parameter.grad is None for parameter in ensemble.critics[1].parameters())


@pytest.mark.parametrize("loss", [None, SquaredValueLoss()])
def test_a_prompt_critic_has_one_term_a_response_whatever_its_length(loss, tiny_critic):
    ensemble = MiniCritics(tiny_critic, loss=loss, inputs="prompt").build(tiny_critic)
    assert [critic.inputs for critic in ensemble.critics] == ["prompt", "prompt"]
    batch = with_targets(a_batch())
    terms = ensemble._losses(0, batch)
    values = ensemble.critics[0](batch.replace(response_mask=torch.ones_like(batch.response_mask)))[:, 0]
    some = batch.response_mask.any(-1)
    expected = torch.where(some, (values - batch.returns[:, 0]).square(), 0.0)
    torch.testing.assert_close(terms, expected)
    shorter = batch.replace(response_mask=batch.response_mask & (torch.arange(6) < 1))
    torch.testing.assert_close(ensemble._losses(0, shorter), terms)


def test_a_prompt_critic_learns_the_mean_over_responses_not_over_tokens(tiny_critic, tmp_path):
    """Two responses to one prompt, of 6 tokens that failed and of 2 that succeeded: the best value is ½, not ¼."""
    from rl4llm.algorithms.microbatches import Averaging
    from rl4llm.objectives import TokenMean

    ensemble = SymmetricCritic(inputs="prompt", head=SigmoidHead(), head_scale=0.0).build(tiny_critic)
    batch = a_batch()
    batch = batch.select(torch.tensor([0, 0]))
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    scores = torch.tensor([0.0, 1.0])
    batch = batch.replace(response_mask=mask, scores=scores, returns=scores[:, None].expand(2, 6).clone())
    averaging = Averaging((TokenMean(),))
    counts = averaging.counts(batch)
    for pieces in ([batch], batch.split([1, 1])):
        ensemble.zero_grad()
        sum(averaging([ensemble._losses(0, rows)], rows, counts) for rows in pieces).backward()
        assert ensemble.critics[0].head.affine.bias.grad.abs().item() < 1e-7


@each_head
def test_a_head_on_the_trunk_gives_the_policy_its_values(head):
    policy = Policy(*TinyQwen3(hidden_size=16, layers=1, heads=2, key_value_heads=1, head_size=8).build())
    TrunkCritic(head=head, head_scale=1.0).build("", policy)
    batch = a_batch()
    output = policy(batch, asks=("values",))
    assert output.values.shape == batch.response_mask.shape
    assert not output.values[~batch.response_mask].any()
    if isinstance(head, BoundedHead | SigmoidHead | HistogramHead):
        low, high = (0.0, 1.0) if isinstance(head, SigmoidHead) else (-1.0, 3.0)
        assert ((output.values > low) & (output.values < high))[batch.response_mask].all()
    output.values.sum().backward()
    assert all(parameter.grad.any() for name, parameter in policy.named_parameters() if "value_head" in name)


def test_a_trained_critic_travels_with_its_state(tiny_critic):
    one, other = (MiniCritics(tiny_critic, seed=seed).build(tiny_critic) for seed in (0, 7))
    assert not torch.equal(one(a_batch()), other(a_batch()))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(a_batch()), other(a_batch()))
