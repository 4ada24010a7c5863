"""Responses to held-out prompts and what is measured on them: the one code behind `validate`, `test` and `evaluate`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.collect import by_name, seen_traits, warn_of_lost
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch
from rl4llm.data.extraction import extracted_answer
from rl4llm.data.task import Prompt, PromptBatch
from rl4llm.metrics import Measure, majority_rate, pass_at_k_rate
from rl4llm.rewards import Scores
from rl4llm.rollouts import Sampling, decode_responses, draw_rollouts


@dataclass(frozen=True)
class Sample:
    """One response to a prompt, and what is known about it.

    Args:
        uid: Stable identity of the prompt.
        index: Which of the prompt's responses this is.
        prompt: What was asked.
        response: The decoded response.
        score: The reward's score; NaN where it could not score the response.
        correct: Whether the score counts as correct.
        answer: What the reward compares with.
        extracted: The answer that the response gives; None if it gives none.
        length: Number of tokens.
        truncated: Whether the length limit cut the response off.
        traits: The task's further numbers about the response.
    """

    uid: int
    index: int
    prompt: Prompt
    response: str
    score: float
    correct: bool
    answer: Any = None
    extracted: str | None = None
    length: int = 0
    truncated: bool = False
    traits: Mapping[str, float] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Return whether the reward could score the response."""
        return self.score == self.score

    @property
    def answer_text(self) -> str | None:
        """Return the expected answer as a text, JSON unless it is one; None if there is no answer."""
        return self.answer if isinstance(self.answer, str | None) else json.dumps(self.answer, default=str)

    def row(self) -> dict[str, Any]:
        """Return the columns of a table, as plain values that JSON and Parquet can hold."""
        return {
            "uid": self.uid,
            "sample": self.index,
            "prompt": self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt),
            "response": self.response,
            "score": self.score if self.scored else None,
            "correct": self.correct if self.scored else None,
            "answer": self.answer_text,
            "extracted": self.extracted,
            "length": self.length,
            "truncated": self.truncated,
        }


class Answers(NamedTuple):
    """Responses to held-out prompts, those of one prompt together, in the prompts' order.

    Attributes:
        batch: Their tokens, on the CPU.
        samples: The same responses as texts with their scores.
    """

    batch: RolloutBatch
    samples: list[Sample]


@torch.no_grad()
def answer_held_out(
    runtime: Runtime, answering: Answering, prompts: PromptBatch, n: int, sampling: Sampling, *, seed: int, first: int
) -> Answers:
    """Return n scored responses to each held-out prompt, of all ranks, in the prompts' order.

    A response depends on the seed, on its prompt's place and on which copy it is: not on how many prompts are answered
    at once, on how many ranks there are, or on n.

    Args:
        runtime: Ranks; each answers a share.
        answering: The policy, whose weights are whole on this rank, and what draws and scores its responses.
        prompts: A batch of held-out prompts.
        n: Responses per prompt.
        sampling: How they are drawn.
        seed: Of the evaluation.
        first: Place of the batch's first prompt among all; a response's random numbers follow from seed and place.
    """
    places = runtime.share(len(prompts))
    mine = prompts.part(places)

    def answer() -> Answers:
        seeds = Runtime(seed).seeds("evaluation", range(first + places.start, first + places.stop))
        batch = draw_rollouts(
            answering.engine, answering.policy, mine, responses_per_prompt=n, sampling=sampling, seeds=seeds
        )
        texts = decode_responses(answering.policy, batch)
        found = mine.score(texts, batch.group_ids.tolist(), answering.scorer)
        warn_of_lost(prompts.task, found)
        batch = batch.to("cpu").replace(scores=found.scores.cpu(), correct=mine.correct(found).cpu())
        return Answers(batch, _samples(batch, mine, texts, found))

    pieces = runtime.together(answer)
    filled = [batch for batch, _ in pieces if len(batch)] or [pieces[0].batch]
    return Answers(RolloutBatch.cat(filled), [sample for _, samples in pieces for sample in samples])


def sample_of(batch: RolloutBatch, prompts: PromptBatch, row: int, response: str, index: int) -> Sample:
    """Return one row of a batch as a sample, without traits; `group_ids` are places in the batch of prompts."""
    example = prompts.examples[int(batch.group_ids[row])]
    return Sample(
        uid=example.uid,
        index=index,
        prompt=example.prompt,
        response=response,
        score=float(batch.scores[row]),
        correct=bool(batch.solved[row]),
        answer=example.answer,
        extracted=extracted_answer(prompts.task, response),
        length=int(batch.lengths[row]),
        truncated=bool(batch.truncated[row]),
    )


def _samples(batch: RolloutBatch, prompts: PromptBatch, texts: list[str], found: Scores) -> list[Sample]:
    copies, traits = len(texts) // max(len(prompts), 1), seen_traits(prompts, texts, found)
    rows = [sample_of(batch, prompts, row, text, row % copies) for row, text in enumerate(texts)]
    return [replace(sample, traits=seen) for sample, seen in zip(rows, traits, strict=True)]


def measures(samples: Sequence[Sample], *, ks: Sequence[int]) -> dict[str, Measure]:
    """Return everything that is measured on sampled responses, by name.

    `sampled_accuracy` (the mean over n responses per prompt, mean@n), `reward`, `unscorable_share`, `response_length`,
    `truncated_share`, the task's traits, and for each k `pass_at_<k>` and, for k above 1, `maj_at_<k>`. Responses that
    could not be scored count only in `unscorable_share`, length and truncation; a prompt with fewer than k scored
    responses counts in no estimate for k. Without any extracted answer there is no maj@k.

    Args:
        samples: n responses per prompt, those of one prompt together.
        ks: Numbers of responses for pass@k and maj@k, none above n.

    Returns:
        Measures over the prompts; what counts nothing is left out.
    """
    if not samples:
        return {}
    n = max(sample.index for sample in samples) + 1
    groups = [samples[start : start + n] for start in range(0, len(samples), n)]
    found = _of_responses(samples, n)
    for k in ks:
        scored = [[sample for sample in group if sample.scored] for group in groups]
        enough = _doubles(len(group) >= k for group in scored)
        found[f"pass_at_{k}"] = Measure(_doubles(_pass(group, k) for group in scored), enough)
        if k > 1 and any(sample.extracted is not None for sample in samples):
            found[f"maj_at_{k}"] = Measure(_doubles(_majority(group, k) for group in scored), enough)
    return {name: measure for name, measure in found.items() if measure.counts.sum()}


def _of_responses(samples: Sequence[Sample], n: int) -> dict[str, Measure]:
    """Return the means over responses."""
    scores = torch.tensor([sample.score for sample in samples])
    scored, everything = ~scores.isnan(), torch.ones(len(samples), dtype=torch.bool)

    def mean(values: Tensor, counted: Tensor) -> Measure:
        totals = torch.where(counted, values.double(), 0.0)
        return Measure(totals.reshape(-1, n).sum(-1), counted.double().reshape(-1, n).sum(-1))

    found = {
        "sampled_accuracy": mean(torch.tensor([sample.correct for sample in samples]), scored),
        "reward": mean(scores, scored),
        "unscorable_share": mean(~scored, everything),
        "response_length": mean(torch.tensor([sample.length for sample in samples]), everything),
        "truncated_share": mean(torch.tensor([sample.truncated for sample in samples]), everything),
    }
    traits = by_name([dict(sample.traits) for sample in samples])
    return found | {name: mean(values, ~values.isnan()) for name, values in traits.items()}


def _doubles(numbers: Iterable[float]) -> Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


def _pass(scored: Sequence[Sample], k: int) -> float:
    if len(scored) < k:
        return 0.0
    right, count = sum(sample.correct for sample in scored), len(scored)
    return float(pass_at_k_rate(torch.tensor([right]), torch.tensor([count]), k=k))


def _majority(scored: Sequence[Sample], k: int) -> float:
    if len(scored) < k:
        return 0.0
    return majority_rate([sample.extracted for sample in scored], [sample.correct for sample in scored], k=k)
