"""`Readiness`: critics whose value at a cut is used only for prompts that they predict well."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.mini import MiniCritics
from rl4llm.critics.prompt_errors import check_bounds, prompt_errors, proved_prompts
from rl4llm.critics.prompts import check_uids, find
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec
from rl4llm.groups import first_rows

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy


@dataclass(frozen=True)
class Readiness(WrappingSpec):
    """Critics whose value at a cut is used once they predict the prompt well (AC2, arXiv:2609.39247).

    For `truncation="bootstrap"`. See [prompt_errors][] and [proved_prompts][].

        r'ₜ = rₜ + γ V(s_T) at the cut,   if the prompt is ready;   rₜ, as if the response had ended there, if not

    A prompt becomes ready in a batch that measures its error, if that error is below `prompt` and the mean of all
    errors of the last `window` batches is below `step`; it stays ready. Errors count from the first batch on, those of
    the critics' warm-up too: each is that of the critics before they learned from the batch. Values, learning and
    spread are those of the critics. A prompt that is drawn only once is never believed.

    Args:
        critics: The critics that have to prove themselves.
        step: What the mean error of the last batches must stay below, in units of the score; 0: never.
        prompt: What the error of the prompt itself must stay below.
        window: Batches over which the mean is taken; before there have been as many, no prompt is ready.
        valid: Scored, finished responses that measure a prompt (8 of 16 in the code that was read).
    """

    critics: ValueSpec = MiniCritics()  # noqa: RUF009
    step: float = 0.2
    prompt: float = 0.18
    window: int = 5
    valid: int = 2
    sees_scores: ClassVar[bool] = True
    judges_cuts: ClassVar[bool] = True
    paper: ClassVar[str] = "2609.39247"

    def __post_init__(self) -> None:
        check_bounds("Readiness", self.step, self.prompt)
        check_at_least("Readiness", 1, window=self.window, valid=self.valid)

    @property
    def values_states(self) -> bool:  # type: ignore[override]
        """Whether the critics inside value any state."""
        return self.critics.values_states

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if a prompt has too few responses to be measured, or as any source around critics."""
        if responses_per_prompt < self.valid:
            raise UsageError(
                f"Readiness: valid={self.valid} responses measure a prompt, and responses_per_prompt="
                f"{responses_per_prompt} are too few; set --model.responses_per_prompt={self.valid} or more, or "
                f"--model.critics.valid={responses_per_prompt}."
            )
        super().check(source, responses_per_prompt)

    def build(self, source: "ModelSource", policy: "Policy") -> "ReadinessSource":
        """Return the critics with no prompt ready."""
        return ReadinessSource(self.critics.build(source, policy), self)


class ReadinessSource(WrappingSource):
    """Values of another source, used at cuts only for prompts that are ready.

    Args:
        inner: The other one.
        choice: When it is believed.
    """

    def __init__(self, inner: ValueSource, choice: Readiness) -> None:
        super().__init__(inner)
        self.choice = choice
        self._ready = torch.zeros(0, dtype=torch.long)  # uids, ascending
        self._recent: list[Float[Tensor, " prompt"]] = []  # errors of the last batches, the oldest first

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with the inner source's values."""
        return self.inner.values(batch, context)

    def believes(self, batch: RolloutBatch, context: ValueContext) -> Bool[Tensor, " batch"]:
        """Return whether the prompts of these truncated responses were ready before this batch."""
        ready = find(check_uids("Readiness", batch.prompt_uids), self._ready)[1].to(batch.truncated.device)
        context.log("ready_share", ready.float())
        return ready & self.inner.believes(batch, context)

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Measure the inner source, then let it learn; the batch already holds its values."""
        self.observe(batch, context)
        self.inner.learn(batch, context)

    def observe(self, judged: RolloutBatch, context: ValueContext) -> None:
        """Measure the prompts of the batch and mark those that have become ready. Replayed responses do not count."""
        choice, uids = self.choice, check_uids("Readiness", judged.prompt_uids)
        (values,) = judged.require("values", by="Readiness")
        scores = judged.outcomes
        if judged.replayed is not None:
            scores = scores.masked_fill(judged.replayed, torch.nan)
        rows = prompt_errors(
            values, scores, judged.truncated, judged.prompt_uids, judged.response_mask, valid=choice.valid
        )
        prompts, places = uids.unique(return_inverse=True)
        errors = rows.cpu().double()[first_rows(places, len(prompts))]
        prompts, errors = prompts[~errors.isnan()], errors[~errors.isnan()]
        self._recent = [*self._recent, errors][-choice.window :]
        recent = torch.cat(self._recent)
        context.log("readiness_error", recent.mean()[None] if len(recent) else recent)
        if len(self._recent) == choice.window:
            proved = proved_prompts(errors, recent, step=choice.step, prompt=choice.prompt)
            self._ready = torch.cat([self._ready, prompts[proved]]).unique()

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores: the ready prompts and the errors of the last batches."""
        lengths = torch.tensor([len(errors) for errors in self._recent], dtype=torch.long)
        errors = torch.cat([torch.zeros(0, dtype=torch.float64), *self._recent])
        return {"ready": self._ready.clone(), "errors": errors, "lengths": lengths}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._ready = state["ready"].cpu().clone()
        self._recent = [errors.clone() for errors in state["errors"].cpu().split(state["lengths"].tolist())]
