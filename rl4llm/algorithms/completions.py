"""Completing cut responses, as Monte-Carlo value sources ask of the loop."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.data.task import PromptBatch
from rl4llm.rollouts import Sampling, decode


@torch.no_grad()
def complete(
    runtime: Runtime,
    answering: Answering,
    prompts: PromptBatch,
    batch: RolloutBatch,
    rows: Tensor,
    cuts: Tensor,
    *,
    samples: int,
    greedy: bool = False,
    unfinished: float | None = None,
) -> Tensor:
    """Score completions of responses that are cut before the given columns.

    Each rank completes a contiguous share of the cuts; all ranks get all scores.

    Args:
        runtime: Ranks and random numbers.
        answering: The policy, and what draws and scores its completions; the length limit of its sampling holds for
            beginning and completion together.
        prompts: The prompts that `batch.group_ids` count.
        batch: The rollout batch, the same on every rank.
        rows: Which response is cut, one entry per cut.
        cuts: Before which column.
        samples: Completions per cut.
        greedy: Whether the likeliest tokens are taken.
        unfinished: Score of completions that the length limit cuts off; None: what the reward gives.

    Returns:
        Scores, cut × sample; NaN where one could not be scored.

    Raises:
        UsageError: If a replayed response is to be completed, whose prompt is no longer available.
    """
    if batch.replayed is not None and bool(batch.replayed[rows].any()):
        raise UsageError(
            "replayed responses cannot be completed, because their prompts are no longer available; set "
            "--model.replay=null, or --model.critics to a value source that completes no responses."
        )
    places = runtime.share(len(rows))
    own = slice(places.start, places.stop)

    def completed() -> Tensor:
        if not len(places):
            return torch.zeros(0, samples)
        seeds = runtime.seeds("completion", places)
        texts, ended = _completed(answering, batch, rows[own], cuts[own], seeds, samples=samples, greedy=greedy)
        draws = batch.group_ids[rows[own]].repeat_interleave(samples).tolist()
        scores = prompts.score(texts, draws, answering.scorer).scores
        scores = scores if unfinished is None else scores.masked_fill(~ended.to(scores.device), unfinished)
        return scores.reshape(len(places), samples)

    with answering.drawing(runtime, answering.engine.version):
        return torch.cat(runtime.together(completed)).to(batch.response_ids.device)


def _completed(
    answering: Answering, batch: RolloutBatch, rows: Tensor, cuts: Tensor, seeds: Tensor, *, samples: int, greedy: bool
) -> tuple[list[str], Tensor]:
    """Texts of the cut responses with their completions, and which came to an end."""
    policy, device = answering.policy, batch.response_ids.device
    ids, mask = _prefixes(batch, rows, cuts, policy.pad_id)
    limits = (answering.sampling.max_response_tokens - cuts).to(device)
    sampling = Sampling(temperature=0.0) if greedy else answering.sampling
    drawn = answering.engine.generate(ids, mask, limits, copies=samples, sampling=sampling, seeds=seeds).to(device)
    beginnings = [batch.response_ids[row, :cut] for row, cut in zip(rows.tolist(), cuts.tolist(), strict=True)]
    whole = [torch.cat([beginnings[i // samples], ids]) for i, ids in enumerate(drawn.ids)]
    widths = drawn.widths + cuts.to(device).repeat_interleave(samples)
    padded = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=policy.pad_id)
    return decode(policy, padded, widths), drawn.ended


def _prefixes(batch: RolloutBatch, rows: Tensor, cuts: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts with the beginnings of their responses, left-padded."""
    prefixes: Sequence[Tensor] = [
        torch.cat([batch.prompt_ids[row][batch.prompt_mask[row]], batch.response_ids[row, :cut]])
        for row, cut in zip(rows.tolist(), cuts.tolist(), strict=True)
    ]
    width = max((len(prefix) for prefix in prefixes), default=0)
    ids = batch.prompt_ids.new_full((len(prefixes), width), pad_id)
    for index, prefix in enumerate(prefixes):
        ids[index, width - len(prefix) :] = prefix
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=ids.device)
    return ids, torch.arange(width, device=ids.device) >= width - lengths[:, None]
