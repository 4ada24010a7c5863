"""`SpreadStates`: what the critics say about every state of some held-out responses, beside the truth about it.

The callback measures at every evaluation of a run, or on a checkpoint of a finished one:

    python recipes/asyppo.py fit --trainer.callbacks=bench.spread_states.SpreadStates
    python recipes/asyppo.py validate --ckpt_path=last --trainer.callbacks=bench.spread_states.SpreadStates

Each evaluation writes `states/step_<step>.parquet` into the run folder, one row per trained token. `python -m
bench.spread_page` makes tables of these files.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rl4llm.algorithms.completions import complete
from rl4llm.algorithms.held_out import answer_held_out
from rl4llm.algorithms.meter import Meter
from rl4llm.checks import UsageError, check_at_least
from rl4llm.data.task import PromptBatch

SEED = 1


class SpreadStates(Callback):
    """Compares every critic with the Monte-Carlo truth at every token of one response to each of some prompts.

        truth(s) = mean score of K completions of s by the present policy          for all states s of a response

    The completions are kept as two halves, whose errors are independent, so that the noise of the truth can be told
    from the critics' error.

    Args:
        prompts: Number of held-out prompts.
        completions: K, an even number.
        steps: Rollout batches after which states are measured; empty: at every evaluation.
    """

    def __init__(self, prompts: int = 64, completions: int = 32, steps: list[int] | None = None) -> None:
        check_at_least("SpreadStates", 1, prompts=prompts, completions=completions)
        if completions % 2:
            raise UsageError(f"SpreadStates: completions={completions}; give an even number, which has two halves.")
        self.prompts, self.completions, self.steps = prompts, completions, steps or []
        self.answered = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise before anything runs if the run has no spread or no folder."""
        critics: Any = getattr(pl_module, "critics", None)
        if critics is None or len(critics.learners) < 2:
            raise UsageError("SpreadStates: the run has fewer than two critics, so it has no spread; give it two.")
        if not trainer.loggers or trainer.loggers[0].log_dir is None:
            raise UsageError("SpreadStates: the run has no folder to write to; leave --trainer.logger at its default.")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation."""
        self.answered = 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Measure the first prompts of an evaluation."""
        due = not self.steps or trainer.global_step in self.steps
        if due and not self.answered:
            states = measured(pl_module, batch.part(range(self.prompts)), self.completions)
            folder = Path(trainer.loggers[0].log_dir or ".") / "states"  # `setup` has checked that there is one
            _write(states, folder / f"step_{trainer.global_step:06d}.parquet", trainer.global_step)
        self.answered += len(batch)


@torch.no_grad()
def measured(module: Any, prompts: PromptBatch, completions: int) -> dict[str, Tensor]:
    """Return what is known about every token of one response to each prompt, each [batch, time] or with more axes.

    Args:
        module: A [PolicyGradient][rl4llm.algorithms.policy_gradient.PolicyGradient] with several critics.
        prompts: The prompts.
        completions: Completions per state.
    """
    runtime, sampling = replace(module.runtime(), seed=SEED, step=0), module.composition.rollout.sampling
    answering = replace(module.answering(), sampling=sampling)
    with answering.drawing(runtime, module.policy_version):
        drawn, _ = answer_held_out(runtime, answering, prompts, 1, sampling, seed=SEED, first=0)
    batch = drawn.replace(group_ids=torch.arange(len(drawn))).to(runtime.device)
    rows, cuts = batch.response_mask.cpu().nonzero(as_tuple=True)
    scores = complete(runtime, answering, prompts, batch, rows, cuts, samples=completions).cpu()
    halves = torch.full((*batch.response_mask.shape, 2), torch.nan)
    halves[rows, cuts] = scores.unflatten(-1, (2, -1)).nanmean(-1)
    judged = module.critics.values(batch, module.value_context(runtime, prompts, Meter()))
    return {
        "critic_values": judged.critic_values.float().cpu(),
        "truths": halves,
        "entropies": batch.entropies.float().cpu(),
        "token_ids": batch.response_ids.cpu(),
        "mask": batch.response_mask.cpu(),
        "scores": batch.scores.float().cpu(),
    }


def _write(states: dict[str, Tensor], path: Path, step: int) -> None:
    """Write one row per trained token."""
    import pandas

    rows, columns = states["mask"].nonzero(as_tuple=True)
    at = (rows, columns)
    table = {"step": step, "response": rows, "column": columns, "token_id": states["token_ids"][at]}
    table |= {f"critic_{index}": values[at] for index, values in enumerate(states["critic_values"])}
    table |= {"truth_a": states["truths"][..., 0][at], "truth_b": states["truths"][..., 1][at]}
    table |= {"entropy": states["entropies"][at], "score": states["scores"][rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame({name: getattr(x, "numpy", lambda x=x: x)() for name, x in table.items()}).to_parquet(path)
