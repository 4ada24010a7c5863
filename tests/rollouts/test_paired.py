"""Random numbers belong to the prompt: a response does not depend on how, or beside what, it is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4llm.models import Policy
from tests.rollouts.helpers import generate, prompts, rollouts, said, seeds_of
from tests.rollouts.test_drawing import chi_square

FEW = settings(max_examples=10)
TEXTS = ("583912=", "12=", "9=", "777=", "40615=")


@pytest.fixture(scope="module")
def policy():
    return Policy.load("rl4llm/digits")


def encoded(policy):
    return [policy.tokenizer(text)["input_ids"] for text in TEXTS]


def by_prompt(responses, copies):
    return [responses[start : start + copies] for start in range(0, len(responses), copies)]


@FEW
@given(rows_at_once=st.integers(1, 30), seed=st.integers(0, 1000))
def test_responses_do_not_depend_on_how_many_are_drawn_at_once(policy, rows_at_once, seed):
    batch = prompts(*TEXTS)
    together, apart = (rollouts(policy, batch, n=4, seed=seed, rows_at_once=rows) for rows in (1024, rows_at_once))
    assert said(together) == said(apart)
    assert torch.equal(together.truncated, apart.truncated)
    assert torch.equal(together.group_ids, apart.group_ids)
    torch.testing.assert_close(together.rollout_log_probs, apart.rollout_log_probs, atol=1e-5, rtol=0)


@FEW
@given(order=st.permutations(range(len(TEXTS))), kept=st.integers(1, len(TEXTS)), padding=st.integers(0, 5))
def test_responses_do_not_depend_on_neighbours_order_or_padding(policy, order, kept, padding):
    rows, seeds = encoded(policy), seeds_of(len(TEXTS))
    whole = by_prompt(said(generate(policy, rows, [16] * len(rows), copies=3)), 3)
    chosen = order[:kept]
    some = generate(
        policy, [rows[i] for i in chosen], [16] * kept, copies=3, seeds=seeds[list(chosen)], padding=padding
    )
    assert by_prompt(said(some), 3) == [whole[i] for i in chosen]


@FEW
@given(few=st.integers(1, 6), more=st.integers(0, 6))
def test_the_first_copies_are_the_same_however_many_follow(policy, few, more):
    rows = encoded(policy)
    some, all_ = (said(generate(policy, rows, [16] * len(rows), copies=n)) for n in (few, few + more))
    assert by_prompt(some, few) == [group[:few] for group in by_prompt(all_, few + more)]


@FEW
@given(limits=st.lists(st.integers(1, 16), min_size=len(TEXTS), max_size=len(TEXTS)))
def test_a_lower_limit_cuts_a_response_and_leaves_those_beside_it_alone(policy, limits):
    rows = encoded(policy)
    whole = by_prompt(said(generate(policy, rows, [16] * len(rows), copies=3)), 3)
    cut = by_prompt(said(generate(policy, rows, limits, copies=3)), 3)
    assert cut == [[response[:limit] for response in group] for group, limit in zip(whole, limits, strict=True)]


def test_other_seeds_and_other_copies_give_other_responses(policy):
    batch = prompts(*["583912="] * 8)
    first, other = (said(rollouts(policy, batch, n=8, seed=seed)) for seed in (1, 2))
    assert len({tuple(response) for response in first}) > 4  # the copies of one prompt differ
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 32
    same_place = rollouts(policy, batch, n=8, seeds=torch.zeros(8, dtype=torch.long))
    assert all(group == by_prompt(said(same_place), 8)[0] for group in by_prompt(said(same_place), 8))


def test_the_first_two_tokens_follow_the_policy(policy):
    count, row = 6000, policy.tokenizer("583912=")["input_ids"]
    drawn = generate(policy, [row], [2], copies=count, temperature=1.5)
    vocabulary = policy.model.config.vocab_size
    second = drawn.ids[:, 1] if drawn.ids.shape[1] > 1 else torch.zeros(count, dtype=torch.long)
    cells = torch.where(
        drawn.mask.sum(-1) == 2, drawn.ids[:, 0] * (vocabulary + 1) + second + 1, drawn.ids[:, 0] * (vocabulary + 1)
    )
    counts = torch.bincount(cells, minlength=vocabulary * (vocabulary + 1))
    with torch.no_grad():
        inputs = torch.tensor([[*row, token] for token in range(vocabulary)])
        logits = policy.model(inputs).logits / 1.5
    one, two = logits[0, -2].softmax(-1), logits[:, -1].softmax(-1)
    ends = torch.isin(torch.arange(vocabulary), torch.tensor(policy.end_ids))
    joint = torch.cat([torch.where(ends, one, 0.0)[:, None], torch.where(ends[:, None], 0.0, one[:, None] * two)], -1)
    statistic, bound = chi_square(counts, np.asarray(joint.flatten()) * count)
    assert statistic < bound
