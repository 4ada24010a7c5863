"""Held-out accuracy: greedy, mean@k and pass@k, as a callback for any module that holds a policy."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.collect import by_name, seen_traits, warn_of_lost
from rl4llm.algorithms.runtime import Runtime
from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_at_least, check_interval
from rl4llm.data.task import PromptBatch
from rl4llm.masked import masked_mean
from rl4llm.metrics import PassAtK
from rl4llm.rollouts import Sampling, decode_responses, draw_rollouts


@dataclass(frozen=True)
class Evaluation:
    """How a policy is evaluated on held-out prompts: one greedy response and k sampled ones per prompt.

    Args:
        samples: k, sampled responses per prompt.
        temperature: Temperature of the sampled responses.
        top_k: Keep only the k likeliest tokens of the sampled responses.
        top_p: Keep the likeliest tokens with this mass in the sampled responses.
        max_response_tokens: Length limit; that of training when None.
        seed: Seed of the sampled responses, the same at every evaluation.
        completions: Completions of the beginning of one response to each prompt; their mean score is the truth that the
            critics' values are compared with ([CriticEvaluator][rl4llm.algorithms.critic_evaluation.CriticEvaluator]).
            0: critics are not compared.
    """

    samples: int = 4
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    max_response_tokens: int | None = None
    seed: int = 0
    completions: int = 0

    def __post_init__(self) -> None:
        check_at_least("Evaluation", 0, completions=self.completions)
        check_at_least("Evaluation", 1, samples=self.samples, max_response_tokens=self.max_response_tokens)
        check_interval("Evaluation", 0.0, float("inf"), "()", temperature=self.temperature)

    def sampling(self, training: Sampling) -> Sampling:
        """Return how the k responses are drawn, given how training draws."""
        limit = self.max_response_tokens or training.max_response_tokens
        return Sampling(self.temperature, self.top_k, self.top_p, limit)


class Evaluator(Callback):
    """Evaluates the module's policy whenever the Trainer validates or tests.

    Each rank answers a share of the prompts of a held-out batch; every rank logs the numbers of all of them. The random
    numbers of a response follow from the evaluation's seed and the prompt's place, so curves differ only by the policy.
    The module is a [PolicyModule][rl4llm.algorithms.policy_module.PolicyModule].

    Args:
        evaluation: How responses are drawn.
        training: How training draws them.
    """

    def __init__(self, evaluation: Evaluation, training: Sampling) -> None:
        self.evaluation, self.sampled = evaluation, evaluation.sampling(training)
        self.greedy = Sampling(temperature=0.0, max_response_tokens=self.sampled.max_response_tokens)
        self.pass_at_k = PassAtK(evaluation.samples, sync_on_compute=False)
        self.answered = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.pass_at_k.reset()
        self.answered = 0

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Evaluate the policy on one batch of held-out prompts and log the metrics."""
        self._evaluate(pl_module, batch, "val")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Evaluate the policy on one batch of test prompts and log the metrics."""
        self._evaluate(pl_module, batch, "test")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log pass@k over all prompts of the evaluation."""
        pl_module.log(f"val/pass_at_{self.evaluation.samples}", self.pass_at_k.compute())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log pass@k over all prompts of the evaluation."""
        pl_module.log(f"test/pass_at_{self.evaluation.samples}", self.pass_at_k.compute())

    def _evaluate(self, module: Any, prompts: PromptBatch, stage: str) -> None:
        answering, runtime = module.answering(), module.runtime()
        with answering.drawing(runtime, module.policy_version):
            place = {"seed": self.evaluation.seed, "first": self.answered}
            greedy, _ = answer_held_out(runtime, answering, prompts, 1, self.greedy, **place)
            n = self.evaluation.samples
            sampled, traits = answer_held_out(runtime, answering, prompts, n, self.sampled, **place)
        self.answered += len(prompts)
        correct, scored = greedy.solved, ~greedy.scores.isnan()
        _log(module, f"{stage}/greedy_accuracy", correct.float(), scored)
        correct, scored = sampled.solved, ~sampled.scores.isnan()
        everything = torch.ones_like(scored)
        _log(module, f"{stage}/sampled_accuracy", correct.float(), scored, shown=True)
        _log(module, f"{stage}/reward", sampled.scores, scored)
        _log(module, f"{stage}/unscorable_share", (~scored).float(), everything)
        _log(module, f"{stage}/response_length", sampled.lengths.float(), everything)
        _log(module, f"{stage}/truncated_share", sampled.truncated.float(), everything)
        for name, values in traits.items():
            _log(module, f"{stage}/{name}", values, ~values.isnan())
        shape = (len(prompts), self.evaluation.samples)
        self.pass_at_k.update((correct & scored).reshape(shape).sum(-1), scored.reshape(shape).sum(-1))


@torch.no_grad()
def answer_held_out(
    runtime: Runtime, answering: Answering, prompts: PromptBatch, n: int, sampling: Sampling, *, seed: int, first: int
) -> tuple[RolloutBatch, dict[str, Tensor]]:
    """Return n responses to each held-out prompt, of all ranks, with their scores and traits, in the prompts' order.

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

    def answer() -> tuple[RolloutBatch, list[dict[str, float]]]:
        seeds = Runtime(seed).seeds("evaluation", range(first + places.start, first + places.stop))
        batch = draw_rollouts(
            answering.engine, answering.policy, mine, responses_per_prompt=n, sampling=sampling, seeds=seeds
        )
        texts = decode_responses(answering.policy, batch)
        found = mine.score(texts, batch.group_ids.tolist(), answering.scorer)
        scored = batch.to("cpu").replace(scores=found.scores.cpu(), correct=mine.correct(found).cpu())
        warn_of_lost(prompts.task, found)
        return scored, seen_traits(mine, texts, found)

    pieces = runtime.together(answer)
    filled = [batch for batch, _ in pieces if len(batch)] or [pieces[0][0]]
    seen = [traits for _, own in pieces for traits in own]
    return RolloutBatch.cat(filled), by_name(seen)


def _log(module: LightningModule, name: str, values: Tensor, counted: Tensor, *, shown: bool = False) -> None:
    """Log a mean over counted responses, weighted so that it stays one over batches; all ranks log the same."""
    weight = int(counted.sum())
    if weight:
        mean = masked_mean(values, counted)
        module.log(name, mean, on_epoch=True, on_step=False, batch_size=weight, prog_bar=shown)
