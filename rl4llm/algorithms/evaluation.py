"""Held-out accuracy: greedy, mean@k and pass@k, for any module that holds a policy."""

from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_interval
from rl4llm.data.task import PromptBatch
from rl4llm.metrics import PassAtK
from rl4llm.models import Policy
from rl4llm.rollouts import HuggingFaceRollout, RolloutEngine, Sampling, decode_responses


@dataclass(frozen=True)
class Evaluation:
    """How a policy is judged on held-out prompts: one greedy response and k sampled ones a prompt.

    Args:
        samples: k, sampled responses a prompt.
        temperature: Of the sampled responses.
        top_k: Keep only the k likeliest tokens of the sampled responses.
        top_p: Keep the likeliest tokens with this mass in the sampled responses.
        max_response_tokens: Length limit; that of training when None.
        seed: Of the sampled responses, the same at every evaluation.
    """

    samples: int = 4
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    max_response_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("Evaluation", 1, samples=self.samples, max_response_tokens=self.max_response_tokens)
        check_interval("Evaluation", 0.0, float("inf"), "()", temperature=self.temperature)

    def sampling(self, training: Sampling) -> Sampling:
        """How the k responses are drawn, given how training draws."""
        limit = self.max_response_tokens or training.max_response_tokens
        return Sampling(self.temperature, self.top_k, self.top_p, limit)


class Evaluator(torch.nn.Module):
    """Counts over the batches of one evaluation. Nothing of it is saved in checkpoints.

    Args:
        evaluation: How responses are drawn.
        training: How training draws them.
        engine: What draws them.
    """

    def __init__(self, evaluation: Evaluation, training: Sampling, engine: RolloutEngine | None = None) -> None:
        super().__init__()
        self.evaluation, self.sampled = evaluation, evaluation.sampling(training)
        self.greedy = Sampling(temperature=0.0, max_response_tokens=self.sampled.max_response_tokens)
        self.engine = engine or HuggingFaceRollout()
        self.pass_at_k = PassAtK(evaluation.samples)
        self.generator: torch.Generator | None = None

    def restart(self) -> None:
        """Begin an evaluation: the same random numbers every time, so that curves differ by the policy alone."""
        self.pass_at_k.reset()
        self.generator = None

    def step(self, module: LightningModule, policy: Policy, prompts: PromptBatch, stage: str) -> None:
        """Judge the policy on some prompts and log."""
        if self.generator is None:
            device = next(policy.parameters()).device
            self.generator = torch.Generator(device).manual_seed(self.evaluation.seed + module.global_rank)
        log = {"on_epoch": True, "on_step": False, "sync_dist": True}
        greedy, _ = self._answer(policy, prompts, 1, self.greedy)
        correct, scored = _correct(greedy)
        module.log(f"{stage}/greedy_accuracy", _mean(correct, scored), batch_size=int(scored.sum()) or 1, **log)
        sampled, texts = self._answer(policy, prompts, self.evaluation.samples, self.sampled)
        correct, scored = _correct(sampled)
        size = {"batch_size": int(scored.sum()) or 1}
        module.log(f"{stage}/sampled_accuracy", _mean(correct, scored), prog_bar=True, **size, **log)
        module.log(f"{stage}/reward", _mean(sampled.scores.nan_to_num(), scored), **size, **log)
        module.log(f"{stage}/unscorable_share", 1 - scored.float().mean(), batch_size=len(sampled), **log)
        module.log(f"{stage}/response_length", sampled.lengths.float().mean(), batch_size=len(sampled), **log)
        module.log(f"{stage}/truncated_share", sampled.truncated.float().mean(), batch_size=len(sampled), **log)
        for name, value in mean_traits(prompts, texts).items():
            module.log(f"{stage}/{name}", value, batch_size=len(sampled), **log)
        shape = (len(prompts), self.evaluation.samples)
        self.pass_at_k.update((correct & scored).reshape(shape).sum(-1), scored.reshape(shape).sum(-1))
        module.log(f"{stage}/pass_at_{self.evaluation.samples}", self.pass_at_k, on_epoch=True, on_step=False)

    def _answer(
        self, policy: Policy, prompts: PromptBatch, n: int, sampling: Sampling
    ) -> tuple[RolloutBatch, list[str]]:
        assert self.generator is not None
        batch = self.engine(policy, prompts, responses_per_prompt=n, sampling=sampling, generator=self.generator)
        texts = decode_responses(policy, batch)
        scores = prompts.score(texts, batch.group_ids.tolist()).scores.to(batch.scores.device)
        return batch.replace(scores=scores), texts


def _correct(batch: RolloutBatch) -> tuple[Tensor, Tensor]:
    """Which responses are correct (a positive score), and which could be scored."""
    return batch.scores > 0, ~batch.scores.isnan()


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).float().sum() / counted.sum().clamp(min=1)


def mean_traits(prompts: PromptBatch, texts: list[str]) -> dict[str, float]:
    """Mean of every trait that the task sees in the responses."""
    seen = [prompts.task.traits(text) for text in texts]
    return {name: sum(traits[name] for traits in seen) / len(seen) for name in (seen[0] if seen else ())}
