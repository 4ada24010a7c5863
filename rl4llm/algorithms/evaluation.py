"""Held-out accuracy: greedy, mean@k, pass@k and maj@k, as a callback for any module that holds a policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning import Callback, LightningModule, Trainer

from rl4llm.algorithms.held_out import Sample, answer_held_out, measures
from rl4llm.checks import check_at_least, check_interval
from rl4llm.data.task import PromptBatch
from rl4llm.metrics import Measure
from rl4llm.rollouts import Sampling


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
        samples_shown: Responses shown at every evaluation: the best, the worst, a random one, and so on; 0: none.
        training_samples_every: Rollout batches after which as many training responses are shown; None: never.
    """

    samples: int = 4
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    max_response_tokens: int | None = None
    seed: int = 0
    completions: int = 0
    samples_shown: int = 3
    training_samples_every: int | None = None

    def __post_init__(self) -> None:
        check_at_least("Evaluation", 0, completions=self.completions, samples_shown=self.samples_shown)
        check_at_least("Evaluation", 1, samples=self.samples, max_response_tokens=self.max_response_tokens)
        check_at_least("Evaluation", 1, training_samples_every=self.training_samples_every)
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

    Attributes:
        samples: The sampled responses of the latest evaluation.
    """

    def __init__(self, evaluation: Evaluation, training: Sampling) -> None:
        self.evaluation, self.sampled = evaluation, evaluation.sampling(training)
        self.greedy = Sampling(temperature=0.0, max_response_tokens=self.sampled.max_response_tokens)
        self.samples: list[Sample] = []
        self.greedy_samples: list[Sample] = []
        self.answered = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.samples, self.greedy_samples, self.answered = [], [], 0

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Let the policy answer one batch of held-out prompts."""
        self._answer(pl_module, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Let the policy answer one batch of test prompts."""
        self._answer(pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is measured over all prompts of the evaluation."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is measured over all prompts of the evaluation."""
        self._log(pl_module, "test")

    def _answer(self, module: Any, prompts: PromptBatch) -> None:
        answering, runtime, n = module.answering(), module.runtime(), self.evaluation.samples
        with answering.drawing(runtime, module.policy_version):
            place = {"seed": self.evaluation.seed, "first": self.answered}
            self.greedy_samples += answer_held_out(runtime, answering, prompts, 1, self.greedy, **place).samples
            self.samples += answer_held_out(runtime, answering, prompts, n, self.sampled, **place).samples
        self.answered += len(prompts)

    def _log(self, module: LightningModule, stage: str) -> None:
        """Log the same numbers on every rank."""
        for name, measure in all_measures(self.greedy_samples, self.samples, ks=[self.evaluation.samples]).items():
            module.log(f"{stage}/{name}", measure.mean, prog_bar=name == "sampled_accuracy")


def all_measures(greedy: Sequence[Sample], sampled: Sequence[Sample], *, ks: Sequence[int]) -> dict[str, Measure]:
    """Return `greedy_accuracy`, measured on one greedy response per prompt, and all that sampled responses give.

    Args:
        greedy: One response per prompt.
        sampled: n responses to each of the same prompts, those of one prompt together.
        ks: Numbers of responses for pass@k and maj@k, none above n.
    """
    accuracy = measures(greedy, ks=()).get("sampled_accuracy")
    return ({} if accuracy is None else {"greedy_accuracy": accuracy}) | measures(sampled, ks=ks)
