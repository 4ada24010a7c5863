"""What a term of the loss is divided by: rows that leave the batch leave the divisor, and a dual sees the same mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.advantages import GroupRelative
from rl4llm.algorithms import Composition, Credit, Loss, Rollout, cut_by_tokens
from rl4llm.algorithms.deal import Dealt
from rl4llm.algorithms.judge import with_gates
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter
from rl4llm.corrections import MaskedImportance
from rl4llm.gates import AgreementGate, CorrectResponses, FinishedResponses, HighEntropy, RandomGate
from rl4llm.models import Policy, TinyQwen3
from rl4llm.objectives import ConstantNorm, PPOClip, SequenceMean, SequenceSum, TokenMean
from rl4llm.regularizers import Constrained, KLPenalty, Likelihood, RatioPenalty
from rl4llm.testing.strategies import rollouts

AGGREGATORS = [TokenMean(), SequenceMean(), SequenceSum(), ConstantNorm(max_tokens=7)]
each_aggregator = pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda a: type(a).__name__)
batches = rollouts(max_batch=5, max_time=5)


@pytest.fixture(scope="module")
def policy():
    sizes = {"hidden_size": 8, "layers": 1, "heads": 1, "key_value_heads": 1, "head_size": 8}
    return Policy(*TinyQwen3(**sizes).build()).double()


def composed(aggregator=AGGREGATORS[0], correction=None, **loss):
    credit = Credit(advantage=GroupRelative(), correction=correction)
    return Composition(Rollout(), credit, Loss(PPOClip(), aggregator=aggregator, **loss))


def losses(policy, composition, batch, pieces=None, duals=None):
    """The loss of one optimizer step on a judged batch, cut into pieces of rows, with the divisors of all of it."""
    averaging = composition.loss.averaging()
    counts = averaging.counts(batch)
    total = torch.zeros((), dtype=torch.float64)
    for rows in cut_by_tokens(batch, 10**6) if pieces is None else pieces:
        piece = batch.select(rows)
        terms = policy_losses(policy, composition, piece, Meter(), version=None, duals=duals or {})
        total = total + averaging(terms, piece, counts).double()
    return total


@each_aggregator
@given(batch=batches)
@settings(max_examples=20)
def test_truncated_responses_leave_the_divisor(policy, aggregator, batch):
    composition = composed(aggregator, gate=FinishedResponses())
    judged = with_gates(batch, composition)
    without = with_gates(batch.select(~batch.truncated), composed(aggregator))
    torch.testing.assert_close(losses(policy, composition, judged), losses(policy, composed(aggregator), without))


@given(batch=batches)
@settings(max_examples=20)
def test_they_stay_in_it_on_request(policy, batch):
    kept = composed(gate=FinishedResponses(in_divisor=True))
    left = composed(gate=FinishedResponses())
    stays, leaves = (losses(policy, one, with_gates(batch, one)) for one in (kept, left))
    trained = batch.response_mask.sum()
    finished = batch.response_mask[~batch.truncated].sum()
    torch.testing.assert_close(stays * trained, leaves * finished)


@each_aggregator
@given(batch=batches)
@settings(max_examples=20)
def test_rejected_responses_leave_the_divisor(policy, aggregator, batch):
    correction = MaskedImportance(low=0.9, high=1.1)
    composition = composed(aggregator, correction)
    weights = correction(batch)
    judged = with_gates(batch.replace(advantages=batch.advantages * weights), composition)
    rejected = batch.response_mask.any(-1) & ~(weights > 0).any(-1)
    alone = with_gates(judged.select(~rejected), composed(aggregator))
    torch.testing.assert_close(losses(policy, composition, judged), losses(policy, composed(aggregator), alone))


@given(batch=batches)
@settings(max_examples=20)
def test_a_likelihood_is_divided_by_the_tokens_of_correct_responses(policy, batch):
    composition = composed(regularizers={"likelihood": Likelihood(coef=1.0, where=CorrectResponses())})
    judged = with_gates(batch, composition)
    averaging = composition.loss.averaging()
    _, term = policy_losses(policy, composition, judged, Meter(), version=None)
    correct = batch.response_mask & (batch.scores > 0)[:, None]
    expected = -policy(batch).log_probs[correct].mean() if correct.any() else torch.zeros((), dtype=torch.float64)
    counts = averaging.counts(judged)
    nothing = torch.zeros_like(term)
    torch.testing.assert_close(averaging([nothing, term], judged, counts), expected)


@each_aggregator
@given(batch=batches, budget=st.integers(1, 30))
@settings(max_examples=20)
def test_no_term_depends_on_the_cut(policy, aggregator, batch, budget):
    regularizers = {
        "likelihood": Likelihood(where=CorrectResponses()),
        "kl": KLPenalty(0.1, "k2", aggregator=SequenceSum()),
    }
    composition = composed(aggregator, gate=FinishedResponses() & RandomGate(0.3), regularizers=regularizers)
    judged = with_gates(batch, composition)
    cut = losses(policy, composition, judged, cut_by_tokens(judged, budget))
    torch.testing.assert_close(cut, losses(policy, composition, judged))


@given(batch=batches, ranks=st.integers(2, 3))
@settings(max_examples=20)
def test_no_term_depends_on_the_ranks(policy, batch, ranks):
    composition = composed(gate=FinishedResponses(), regularizers={"likelihood": Likelihood(where=CorrectResponses())})
    judged = with_gates(batch, composition)
    averaging, dealt = composition.loss.averaging(), Dealt(judged, ranks)
    counts, total = averaging.counts(judged), torch.zeros((), dtype=torch.float64)
    for rank in range(ranks):
        for _, piece in dealt.pieces(rank, 20):
            terms = policy_losses(policy, composition, piece, Meter(), version=None)
            total = total + averaging(terms, piece, counts).double()
    torch.testing.assert_close(total, losses(policy, composition, judged))


@given(batch=batches)
@settings(max_examples=20)
def test_a_regularizer_may_have_an_aggregator_of_its_own(policy, batch):
    kl = KLPenalty(1.0, "k2", aggregator=SequenceSum())
    composition = composed(TokenMean(), regularizers={"kl": kl})
    judged = with_gates(batch, composition)
    averaging = composition.loss.averaging()
    assert averaging.aggregators == (TokenMean(), SequenceSum())
    objective, term = policy_losses(policy, composition, judged, Meter(), version=None)
    counts = averaging.counts(judged)
    whole = averaging([objective * 0, term], judged, counts)
    rows = max(int(batch.response_mask.any(-1).sum()), 1)
    torch.testing.assert_close(whole, term.sum() / rows)


@each_aggregator
@given(batch=batches, budget=st.integers(1, 30))
@settings(max_examples=20)
def test_the_dual_ascends_what_the_primal_descends(policy, aggregator, batch, budget):
    """The multiplier's step is lr times the derivative of the loss by the multiplier, less the limit."""
    penalty = Constrained(RatioPenalty(where=CorrectResponses()), limit=0.01, initial=0.5, lr=1.0, maximum=1e30)
    composition = composed(aggregator, regularizers={"variance": penalty})
    judged = with_gates(batch, composition)
    dual = penalty.build()

    def loss(multiplier):
        dual.multiplier.fill_(multiplier)
        dual.forget()
        return losses(policy, composition, judged, cut_by_tokens(judged, budget), {"variance": dual})

    slope = (loss(1.0) - loss(0.0)).item()
    loss(0.5)
    dual.step(lambda sums: sums)
    if (judged.response_mask & (batch.scores > 0)[:, None]).any():
        assert dual.multiplier.item() - 0.5 == pytest.approx(max(slope - 0.01, -0.5), rel=1e-6, abs=1e-9)
    else:
        assert dual.multiplier.item() == 0.5


@given(batch=rollouts(max_batch=4, max_time=4))
def test_what_counts_for_joined_gates(batch):
    mask, finished = batch.response_mask, FinishedResponses()
    kept = finished(batch)
    worth = HighEntropy() if batch.entropies is not None else AgreementGate()
    assert torch.equal(worth.counted(batch), mask)
    assert torch.equal(finished.counted(batch), kept)
    assert torch.equal((finished & worth).counted(batch), kept)
    assert torch.equal((finished | worth).counted(batch), mask)
    assert torch.equal((~finished).counted(batch), mask & ~kept)
    assert torch.equal((~worth).counted(batch), mask)
    assert torch.equal((finished & CorrectResponses()).counted(batch), kept & CorrectResponses()(batch))
    assert torch.equal(FinishedResponses(in_divisor=True).counted(batch), mask)
