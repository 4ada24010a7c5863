"""Collecting: each rank's prompts become scored responses."""

import warnings
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import UsageError
from rl4llm.data.checking import checked_traits
from rl4llm.data.task import PromptBatch, Task
from rl4llm.rewards import Scores
from rl4llm.rewards.verdicts import cut
from rl4llm.rollouts import decode_responses, draw_rollouts

_MOST_TOLD = 20
_told: set[tuple[str, str]] = set()  # rewards and reasons of which this process has warned


@dataclass(frozen=True)
class Collected:
    """What one rank collected.

    Args:
        batch: Its scored rows; group ids are places in the global batch of prompts.
        problems: Why responses could not be scored, with how many.
        lost: For each reason, the first response that was lost for it.
    """

    batch: RolloutBatch
    problems: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def collect(
    runtime: Runtime, answering: Answering, prompts: PromptBatch, meter: Meter, *, responses_per_prompt: int
) -> Collected:
    """Draw and score this rank's responses.

    A rank takes a contiguous share of the prompts, which may be empty. The random numbers of a response follow from the
    run's seed, the step and the prompt's place in the global batch, so responses do not depend on how prompts are
    shared out. A response that could not be scored leaves `response_mask`.

    Args:
        runtime: Ranks and random numbers.
        answering: The policy, and what draws and scores its responses.
        prompts: The global batch of prompts, the same on every rank.
        meter: Receives the diagnostics.
        responses_per_prompt: n.
    """
    places = runtime.share(len(prompts))
    mine = prompts.part(places)
    policy, engine = answering.policy, answering.engine
    batch = draw_rollouts(
        engine,
        policy,
        mine,
        responses_per_prompt=responses_per_prompt,
        sampling=answering.sampling,
        seeds=runtime.seeds("rollout", places),
    )
    texts = decode_responses(policy, batch)
    found = mine.score(texts, batch.group_ids.tolist(), answering.scorer)
    scores, correct = found.scores.to(batch.scores.device), mine.correct(found).to(batch.scores.device)
    batch = batch.replace(scores=scores, correct=correct, group_ids=batch.group_ids + places.start)
    observe_responses(batch, meter, "train")
    observe_traits(seen_traits(mine, texts, found), meter, "train")
    mask = batch.scored_mask
    rewards = place_scores(scores, mask).to(batch.rewards.dtype)
    return Collected(batch.replace(response_mask=mask, rewards=rewards), dict(found.problems), dict(found.lost))


def observe_responses(batch: RolloutBatch, meter: Meter, stage: str) -> None:
    """Add what a rank's responses show: reward, accuracy, length and how many were cut off or not scored."""
    scored = ~batch.scores.isnan()
    meter.add(f"{stage}/reward", batch.scores, scored)
    meter.add(f"{stage}/accuracy", batch.solved.float(), scored)
    meter.add(f"{stage}/unscorable_share", (~scored).float())
    meter.add(f"{stage}/truncated_share", batch.truncated.float())
    meter.add(f"{stage}/response_length", batch.lengths.float())
    if batch.entropies is not None:
        meter.add("policy/entropy", batch.entropies, batch.response_mask)


def observe_traits(seen: list[dict[str, float]], meter: Meter, stage: str) -> None:
    """Add the mean of every trait that the task sees in the responses, and of every component of their scores."""
    for name, values in by_name(seen).items():
        meter.add(f"{stage}/{name}", values, ~values.isnan())


def seen_traits(prompts: PromptBatch, texts: list[str], found: Scores) -> list[dict[str, float]]:
    """Return the traits of each response, and the components of its score as `reward/<name>`.

    Where the task fails to see the traits, there are none, with one warning.
    """
    seen: list[dict[str, float]] = []
    for text in texts:
        try:
            seen.append(checked_traits(prompts.task, text))
        except UsageError as error:
            seen.append({})
            _warn_of_traits(str(error))
    for name, values in found.components.items():
        for traits, value in zip(seen, values.tolist(), strict=True):
            traits[f"reward/{name}"] = value
    return seen


def lost_responses(reward: str, count: int, total: int, reason: str, example: str | None, stage: str) -> str:
    """Return one line about responses that could not be scored, with the first of them, cut."""
    shown = "" if example is None else f" One of them: {cut(repr(example))}."
    return (
        f"reward '{reward}' could not score {count} of {total} responses ({reason}); they are left out of every "
        f"statistic and counted in {stage}/unscorable_share. Mend the reward if that is not meant.{shown}"
    )


def warn_of_lost(task: Task, found: Scores) -> None:
    """Warn of held-out responses that could not be scored, once for each reward and reason."""
    reward = getattr(task.reward, "__name__", type(task.reward).__name__)
    for reason, count in found.problems.items():
        if (reward, reason) not in _told and len(_told) < _MOST_TOLD:
            _told.add((reward, reason))
            total = len(found.scores)
            warnings.warn(lost_responses(reward, count, total, reason, found.lost.get(reason), "val"), stacklevel=2)


@lru_cache(maxsize=8)
def _warn_of_traits(fault: str) -> None:
    warnings.warn(f"{fault}; responses without traits are left out of their means.", stacklevel=3)


def by_name(seen: list[dict[str, float]]) -> dict[str, Tensor]:
    """Return one entry per response for every trait; NaN where a response has none of this name."""
    names = dict.fromkeys(name for traits in seen for name in traits)
    return {name: torch.tensor([traits.get(name, float("nan")) for traits in seen]) for name in names}
