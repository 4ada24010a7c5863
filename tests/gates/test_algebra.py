"""Gates compose as sets do, within the response mask."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.gates import (
    AdvantageMagnitude,
    AgreementGate,
    Both,
    Complement,
    DivergenceFilter,
    Either,
    HighEntropy,
    RandomGate,
)
from rl4llm.testing.strategies import rollouts

FEWER = settings(max_examples=settings.default.max_examples // 3)  # whole batches are slow to draw
KINDS = [AgreementGate, DivergenceFilter, HighEntropy, AdvantageMagnitude, RandomGate]
batches = rollouts()
fractions = st.sampled_from([0.0, 0.2, 0.5, 0.95])
gates = st.builds(lambda kind, fraction: kind(fraction=fraction), st.sampled_from(KINDS), fractions)


@FEWER
@given(batches, gates, gates)
def test_the_algebra_of_gates_is_boolean(batch, a, b):
    assert torch.equal((a & b)(batch), a(batch) & b(batch))
    assert torch.equal((a | b)(batch), a(batch) | b(batch))
    assert torch.equal((~a)(batch), batch.response_mask & ~a(batch))
    assert torch.equal((a & b)(batch), (b & a)(batch))
    assert torch.equal((a | b)(batch), (b | a)(batch))
    assert torch.equal((~~a)(batch), a(batch))
    assert torch.equal((~(a & b))(batch), (~a | ~b)(batch))
    assert torch.equal((~(a | b))(batch), (~a & ~b)(batch))
    assert torch.equal((a | ~a)(batch), batch.response_mask)
    assert not (a & ~a)(batch).any()
    assert torch.equal((a & a)(batch), a(batch))


def test_composed_gates_are_named_values_that_need_what_their_parts_need():
    a, b = AgreementGate(), HighEntropy()
    assert (a & b, a | b, ~a) == (Both(a, b), Either(a, b), Complement(a))
    assert (a & ~b).reads == ("critic_values", "entropies")
