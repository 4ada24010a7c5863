"""Held-out accuracy: greedy, mean@k and pass@k, for any module that holds a policy."""

from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_interval
from rl4llm.data.task import PromptBatch
from rl4llm.masked import masked_mean
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
        greedy, _ = self._answer(policy, prompts, 1, self.greedy)
        correct, scored = _correct(greedy)
        _log(module, f"{stage}/greedy_accuracy", correct.float(), scored)
        sampled, texts = self._answer(policy, prompts, self.evaluation.samples, self.sampled)
        correct, scored = _correct(sampled)
        everything = torch.ones_like(scored)
        _log(module, f"{stage}/sampled_accuracy", correct.float(), scored, shown=True)
        _log(module, f"{stage}/reward", sampled.scores, scored)
        _log(module, f"{stage}/unscorable_share", (~scored).float(), everything)
        _log(module, f"{stage}/response_length", sampled.lengths.float(), everything)
        _log(module, f"{stage}/truncated_share", sampled.truncated.float(), everything)
        for name, value in mean_traits(prompts, texts).items():
            _log(module, f"{stage}/{name}", torch.full_like(sampled.scores, value), everything)
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


def _log(module: LightningModule, name: str, values: Tensor, counted: Tensor, *, shown: bool = False) -> None:
    """Log a mean over counted responses, weighted so that it stays one over batches and ranks."""
    weight = int(counted.sum())
    if weight:
        mean = masked_mean(values, counted)
        module.log(name, mean, on_epoch=True, on_step=False, sync_dist=True, batch_size=weight, prog_bar=shown)


def mean_traits(prompts: PromptBatch, texts: list[str]) -> dict[str, float]:
    """Mean of every trait that the task sees in the responses."""
    seen = [prompts.task.traits(text) for text in texts]
    return {name: sum(traits[name] for traits in seen) / len(seen) for name in (seen[0] if seen else ())}
