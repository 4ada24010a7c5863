"""Prompts of the embedded task, and how to draw responses to them."""

import torch

from rl4llm.data import AbsoluteDifference, Example, PromptBatch
from rl4llm.randomness import seed_of
from rl4llm.rollouts import HuggingFaceRollout, Sampling, draw_rollouts


def prompts(*texts, **options):
    """A batch of prompts with uids 100, 101, ..."""
    examples = [Example(text, None, index + 100) for index, text in enumerate(texts)]
    return PromptBatch(examples, AbsoluteDifference(**options))


def seeds_of(count, seed=0):
    """One seed per prompt."""
    return torch.tensor([seed_of("test", seed, place) for place in range(count)], dtype=torch.long)


def rollouts(policy, batch, n=4, seed=0, rows_at_once=1024, top=0, seeds=None, **sampling):
    """A batch of responses to prompts."""
    with HuggingFaceRollout(rows_at_once=rows_at_once, top_log_probs=top).build(policy) as engine:
        return draw_rollouts(
            engine,
            policy,
            batch,
            responses_per_prompt=n,
            sampling=Sampling(**sampling),
            seeds=seeds_of(len(batch), seed) if seeds is None else seeds,
        )


def generate(policy, rows, limits, copies=2, top=0, seeds=None, padding=0, look_every=None, **sampling):
    """Responses to prefixes given as lists of ids."""
    width = max(map(len, rows), default=0) + padding
    ids = torch.tensor([[policy.pad_id] * (width - len(row)) + row for row in rows], dtype=torch.long)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows], dtype=torch.bool)
    with HuggingFaceRollout(top_log_probs=top, look_every=look_every).build(policy) as engine:
        return engine.generate(
            ids.reshape(len(rows), width),
            mask.reshape(len(rows), width),
            torch.tensor(limits, dtype=torch.long),
            copies=copies,
            sampling=Sampling(**sampling),
            seeds=seeds_of(len(rows)) if seeds is None else seeds,
        )


def said(drawn):
    """The tokens of every response, without padding."""
    ids, mask = (drawn.ids, drawn.mask) if hasattr(drawn, "ids") else (drawn.response_ids, drawn.response_mask)
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
