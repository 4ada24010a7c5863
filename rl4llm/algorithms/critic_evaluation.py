"""`CriticEvaluator`: critics compared with the truth on held-out prompts, by completing what responses begin."""

import math
from dataclasses import replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rl4llm.algorithms.completions import complete
from rl4llm.algorithms.evaluation import Evaluation
from rl4llm.algorithms.held_out import answer_held_out
from rl4llm.algorithms.meter import Meter
from rl4llm.algorithms.runtime import Runtime
from rl4llm.critics import (
    ValueSource,
    calibration_curve,
    calibration_error,
    critic_std,
    explained_variance,
    rank_correlation,
)
from rl4llm.data.task import PromptBatch
from rl4llm.rollouts import Sampling

_BINS = 5  # of the calibration by bin


class CriticEvaluator(Callback):
    """Compares the critics' values with Monte-Carlo truth whenever the Trainer validates or tests.

        one response y to each held-out prompt x        t uniform over its tokens        s = (x, y before t)
        truth(s) = mean score of K completions of s by the present policy

    One state a prompt, so states are independent and intervals hold. Logged under `val/critics/` or `test/critics/`:
    `error`, the mean of |V̄ − truth|; `explained_variance` of the truth, and of each third of the response (`_begin`,
    `_middle`, `_end`); `calibration_error`, and by bin of the values the mean value and truth, `calibration/value_0`,
    `calibration/truth_0` and so on; and, with several critics, `spread_error_rank_correlation` between σ and
    |V̄ − truth| with its 95 % interval (`_low`, `_high`). The truth's own noise, √(p(1 − p)/K), counts as error.

    The module is a [PolicyGradient][rl4llm.algorithms.policy_gradient.PolicyGradient] with critics.

    Args:
        evaluation: How many completions, and the seed.
        training: How training draws responses; truth is that of this sampling.
    """

    def __init__(self, evaluation: Evaluation, training: Sampling) -> None:
        self.evaluation, self.training = evaluation, training
        self.states: list[dict[str, Tensor]] = []
        self.answered = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.states, self.answered = [], 0

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Judge one state of each held-out prompt."""
        self._judge(pl_module, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Judge one state of each test prompt."""
        self._judge(pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how the critics compare."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how the critics compare."""
        self._log(pl_module, "test")

    @torch.no_grad()
    def _judge(self, module: Any, prompts: PromptBatch) -> None:
        """Keep value, spread, truth and place of one state a prompt; the same on every rank."""
        runtime = replace(module.runtime(), seed=self.evaluation.seed, step=self.answered)
        answering = replace(module.answering(), sampling=self.training)
        with answering.drawing(runtime, module.policy_version):
            place = {"seed": self.evaluation.seed, "first": self.answered}
            drawn, _ = answer_held_out(runtime, answering, prompts, 1, self.training, **place)
        self.answered += len(prompts)
        batch = drawn.replace(group_ids=torch.arange(len(drawn))).to(runtime.device)
        cuts = self._cuts(runtime, batch.widths.cpu())
        rows = torch.arange(len(batch))
        truths = complete(runtime, answering, prompts, batch, rows, cuts, samples=self.evaluation.completions)
        judged = module.critics.values(batch, module.value_context(runtime, prompts, Meter()))
        spread = None if judged.critic_values is None else critic_std(judged.critic_values)
        at = (rows, cuts)
        state = {
            "value": judged.values[at],
            "truth": truths.nanmean(-1),
            "place": cuts / batch.widths.cpu().clamp(min=1),
        }
        state |= {} if spread is None else {"spread": spread[at]}
        known = batch.response_mask[at].cpu() & ~state["truth"].cpu().isnan()
        self.states.append({name: x.float().cpu()[known] for name, x in state.items()})

    def _cuts(self, runtime: Runtime, widths: Tensor) -> Tensor:
        """Before which column each response is cut: any that holds a token."""
        chance = torch.rand(len(widths), generator=runtime.generator("cut"))
        return (chance * widths).long().clamp(max=(widths - 1).clamp(min=0))

    def _log(self, module: LightningModule, stage: str) -> None:
        if self.states:
            names = self.states[0]
            seen = {name: torch.cat([state[name] for state in self.states]) for name in names}
            for name, number in compared(**seen).items():
                module.log(f"{stage}/critics/{name}", number)


def critic_evaluators(evaluation: Evaluation, training: Sampling, critics: ValueSource | None) -> list[Callback]:
    """Return the callback that compares critics with the truth, where there are critics and it is asked for."""
    return [CriticEvaluator(evaluation, training)] if evaluation.completions and critics is not None else []


def compared(value: Tensor, truth: Tensor, place: Tensor, spread: Tensor | None = None) -> dict[str, Tensor]:
    """Return the numbers that compare values with the truth, by name.

    Args:
        value: V̄ of some states.
        truth: Mean score of each state's completions.
        place: Where in its response a state stands, in [0, 1).
        spread: σ over the critics; None with one value only.
    """

    def explained(where: Tensor) -> Tensor:
        return explained_variance(value[None, :], truth[None, :], where[None, :])

    numbers = {"error": (value - truth).abs().mean(), "explained_variance": explained(torch.ones_like(place).bool())}
    for third, name in enumerate(("begin", "middle", "end")):
        numbers[f"explained_variance_{name}"] = explained((place * 3).long() == third)
    numbers["calibration_error"] = calibration_error(value, truth)
    for index, (said, true) in enumerate(calibration_curve(value, truth, min(_BINS, max(1, len(value))))):
        numbers |= {f"calibration/value_{index}": said, f"calibration/truth_{index}": true}
    if spread is not None and bool(spread.any()) and len(spread) > 3:
        correlation = rank_correlation(spread, (value - truth).abs())
        wide = 1.96 * 1.03 / math.sqrt(len(spread) - 3)
        numbers["spread_error_rank_correlation"] = correlation
        numbers["spread_error_rank_correlation_low"] = (correlation.clamp(-0.999, 0.999).atanh() - wide).tanh()
        numbers["spread_error_rank_correlation_high"] = (correlation.clamp(-0.999, 0.999).atanh() + wide).tanh()
    return numbers
