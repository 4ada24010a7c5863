"""Acting: from prompts to scored responses, and from cut responses to scored completions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from rl4llm.algorithms.evaluation import mean_traits
from rl4llm.algorithms.meter import Meter, scalar
from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import UsageError
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.rollouts import RolloutEngine, Sampling, decode, decode_responses


@dataclass(frozen=True)
class Actor:
    """Draws responses with an engine and scores them with the task's reward.

    Args:
        engine: What draws.
        sampling: How tokens are drawn.
        responses_per_prompt: n.
        warned: Problems of the reward that the user knows of by now.
    """

    engine: RolloutEngine
    sampling: Sampling
    responses_per_prompt: int
    warned: set[str] = field(default_factory=set)

    @torch.no_grad()
    def act(self, policy: Policy, prompts: PromptBatch, generator: torch.Generator, meter: Meter) -> RolloutBatch:
        """Scored responses; those that could not be scored leave `response_mask`."""
        n, sampling = self.responses_per_prompt, self.sampling
        batch = self.engine(policy, prompts, responses_per_prompt=n, sampling=sampling, generator=generator)
        texts = decode_responses(policy, batch)
        scores, problems = prompts.score(texts, batch.group_ids.tolist())
        scores = scores.to(batch.scores.device)
        self._warn(prompts, problems, int(scores.isnan().sum()), len(batch))
        _observe(batch, scores, meter)
        for name, value in mean_traits(prompts, texts).items():
            meter.add(f"train/{name}", scalar(value))
        batch = batch.replace(scores=scores)
        mask = batch.scored_mask
        return batch.replace(response_mask=mask, rewards=place_scores(scores, mask).to(batch.rewards.dtype))

    def _warn(self, prompts: PromptBatch, problems: list[str], count: int, total: int) -> None:
        for problem in [p for p in problems if p not in self.warned]:
            self.warned.add(problem)
            name = getattr(prompts.task.reward, "__name__", type(prompts.task.reward).__name__)
            rank_zero_warn(
                f"reward '{name}' could not score {count} of {total} responses ({problem}); they are left out of "
                "every statistic and counted in train/unscorable_share. Mend the reward if that is not meant."
            )

    @torch.no_grad()
    def complete(
        self,
        policy: Policy,
        prompts: PromptBatch,
        generator: torch.Generator,
        batch: RolloutBatch,
        rows: Tensor,
        cuts: Tensor,
        *,
        samples: int,
        greedy: bool = False,
    ) -> Tensor:
        """Scores, cut × sample, of completions of responses cut before the given columns; NaN where there is none."""
        draws = batch.group_ids[rows]
        if batch.replayed is not None and bool(batch.replayed[rows].any()):
            raise UsageError(
                "replayed responses cannot be completed, because their prompts are no longer at hand; set "
                "--model.replay=null, or --model.critics to a value source that completes nothing."
            )
        sampling = Sampling(temperature=0.0) if greedy else self.sampling
        device = batch.response_ids.device
        ids, mask = _prefixes(batch, rows, cuts, policy.pad_id)
        limits = (self.sampling.max_response_tokens - cuts).to(device)
        drawn = self.engine.generate(policy, ids, mask, limits, copies=samples, sampling=sampling, generator=generator)
        beginnings = [batch.response_ids[row, :cut] for row, cut in zip(rows.tolist(), cuts.tolist(), strict=True)]
        whole = [torch.cat([beginnings[i // samples], ids]) for i, ids in enumerate(drawn.ids)]
        widths = drawn.lengths + cuts.to(device).repeat_interleave(samples)
        padded = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=policy.pad_id)
        scores = prompts.score(decode(policy, padded, widths), draws.repeat_interleave(samples).tolist()).scores
        return scores.to(device).reshape(len(rows), samples)


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


def _observe(batch: RolloutBatch, scores: Tensor, meter: Meter) -> None:
    scored = ~scores.isnan()
    meter.add("train/reward", scores, scored)
    meter.add("train/accuracy", (scores > 0).float(), scored)
    meter.add("train/unscorable_share", scores.isnan().float())
    meter.add("train/truncated_share", batch.truncated.float())
    meter.add("train/response_length", batch.lengths.float())
    if batch.entropies is not None:
        meter.add("policy/entropy", batch.entropies, batch.response_mask)
