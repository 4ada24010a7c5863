"""Completing cut responses: what Monte-Carlo value sources ask of the loop."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.rewards import Scorer
from rl4llm.rollouts import Engine, Sampling, decode


@torch.no_grad()
def complete(
    runtime: Runtime,
    policy: Policy,
    engine: Engine,
    scorer: Scorer | None,
    sampling: Sampling,
    prompts: PromptBatch,
    batch: RolloutBatch,
    rows: Tensor,
    cuts: Tensor,
    *,
    samples: int,
    greedy: bool = False,
) -> Tensor:
    """Score completions of responses that are cut before the given columns.

    Each rank completes a contiguous share of the cuts; all ranks get all scores.

    Args:
        runtime: Ranks and random numbers.
        policy: The policy that completes.
        engine: Draws the completions, with the present weights.
        scorer: Runs the reward.
        sampling: How training draws responses; its length limit holds for beginning and completion together.
        prompts: The prompts that `batch.group_ids` count.
        batch: The rollout batch, the same on every rank.
        rows: Which response is cut, one entry per cut.
        cuts: Before which column.
        samples: Completions per cut.
        greedy: Whether the likeliest tokens are taken.

    Returns:
        Scores, cut × sample; NaN where one could not be scored.

    Raises:
        UsageError: If a replayed response is to be completed, whose prompt is no longer at hand.
    """
    if batch.replayed is not None and bool(batch.replayed[rows].any()):
        raise UsageError(
            "replayed responses cannot be completed, because their prompts are no longer at hand; set "
            "--model.replay=null, or --model.critics to a value source that completes nothing."
        )
    places = runtime.share(len(rows))
    own = slice(places.start, places.stop)
    limited = Sampling(temperature=0.0) if greedy else sampling
    limits = sampling.max_response_tokens - cuts
    scores = torch.zeros(0, samples)
    if len(places):
        texts = _completed(policy, engine, limited, limits[own], batch, rows[own], cuts[own], samples, runtime, places)
        draws = batch.group_ids[rows[own]].repeat_interleave(samples).tolist()
        scores = prompts.score(texts, draws, scorer).scores.reshape(len(places), samples)
    return torch.cat(runtime.gather(scores)).to(batch.response_ids.device)


def _completed(
    policy: Policy,
    engine: Engine,
    sampling: Sampling,
    limits: Tensor,
    batch: RolloutBatch,
    rows: Tensor,
    cuts: Tensor,
    samples: int,
    runtime: Runtime,
    places: range,
) -> list[str]:
    device = batch.response_ids.device
    ids, mask = _prefixes(batch, rows, cuts, policy.pad_id)
    seeds = runtime.seeds("completion", places)
    drawn = engine.generate(ids, mask, limits.to(device), copies=samples, sampling=sampling, seeds=seeds)
    beginnings = [batch.response_ids[row, :cut] for row, cut in zip(rows.tolist(), cuts.tolist(), strict=True)]
    whole = [torch.cat([beginnings[i // samples], ids]) for i, ids in enumerate(drawn.ids)]
    widths = drawn.widths + cuts.to(device).repeat_interleave(samples)
    padded = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=policy.pad_id)
    return decode(policy, padded, widths)


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
