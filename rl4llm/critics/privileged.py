"""`Privileged`: critics that read the answer, which the policy does not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics.base import ValueContext, ValueSource, ValueSpec
from rl4llm.critics.mini import MiniCritics
from rl4llm.critics.wrapping import WrappingSource, WrappingSpec

if TYPE_CHECKING:
    from rl4llm.models import ModelSource, Policy

_FIELD = "{answer}"


@dataclass(frozen=True)
class Privileged(WrappingSpec):
    """Critics that read the answer between prompt and response (arXiv:2608.16739, 2608.23566).

        V(sₜ, z),    z fixed by the prompt

    Since z does not depend on the response, the advantage stays without bias; since it tells what is right, the critics
    need not find out. The policy, its log-probs and its rollouts have the prompt alone. With `shuffled`, every prompt
    has the answer of another one: a control that is as long and tells nothing.

    Args:
        critics: The critics that read it.
        template: What they read, with `{answer}` for the answer of the prompt.
        shuffled: Whether the answer is another prompt's.
    """

    critics: ValueSpec = MiniCritics()  # noqa: RUF009
    template: str = "{answer}="
    shuffled: bool = False
    needs_prompts: ClassVar[bool] = True
    paper: ClassVar[str] = "2608.16739"

    def __post_init__(self) -> None:
        if _FIELD not in self.template:
            raise UsageError(
                f"Privileged: template={self.template!r} does not say where the answer stands; write {_FIELD} into it."
            )

    @property
    def values_states(self) -> bool:  # type: ignore[override]
        """As for the critics; shuffled answers depend on which prompts are in the batch."""
        return self.critics.values_states and not self.shuffled

    def check(self, source: "ModelSource", responses_per_prompt: int) -> None:
        """Raise if the critics cannot work, or read no prompt of their own."""
        if self.critics.needs_prompts:
            raise UsageError(
                f"Privileged: critics={type(self.critics).__name__} has no critics that could be shown more than the "
                "policy; take MiniCritics or SymmetricCritic."
            )
        super().check(source, responses_per_prompt)

    def build(self, source: "ModelSource", policy: "Policy") -> "PrivilegedSource":
        """Build the critics that read the answers."""
        return PrivilegedSource(self.critics.build(source, policy), self)


class PrivilegedSource(WrappingSource):
    """A value source whose critics have longer prompts than the policy.

    Args:
        inner: The critics.
        choice: What they are shown.
    """

    def __init__(self, inner: ValueSource, choice: Privileged) -> None:
        super().__init__(inner)
        self.choice = choice

    def values(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with the critics' values and the prompts of the policy."""
        judged = self.inner.values(self._shown(batch, context), context)
        return judged.replace(prompt_ids=batch.prompt_ids, prompt_mask=batch.prompt_mask)

    def learn(self, batch: RolloutBatch, context: ValueContext) -> None:
        """Train the critics on the prompts as they read them."""
        self.inner.learn(self._shown(batch, context), context)

    def _shown(self, batch: RolloutBatch, context: ValueContext) -> RolloutBatch:
        """Return the batch with the answer after each prompt."""
        draws = batch.group_ids.tolist()
        if self.choice.shuffled:
            distinct = sorted(set(draws))
            after = dict(zip(distinct, distinct[1:] + distinct[:1], strict=True))
            draws = [after[draw] for draw in draws]
        texts = [self.choice.template.replace(_FIELD, answer) for answer in context.answers(draws)]
        return after_prompts(batch, context.encode(texts))


def after_prompts(batch: RolloutBatch, ids: list[list[int]]) -> RolloutBatch:
    """Return the batch whose prompts end in these further tokens."""
    whole: list[Tensor] = [
        torch.cat([prompt[mask], prompt.new_tensor(more)])
        for prompt, mask, more in zip(batch.prompt_ids, batch.prompt_mask, ids, strict=True)
    ]
    width = max((len(prompt) for prompt in whole), default=0)
    prompts = batch.prompt_ids.new_zeros((len(whole), width))
    for row, prompt in enumerate(whole):
        prompts[row, width - len(prompt) :] = prompt
    lengths = torch.tensor([len(prompt) for prompt in whole], device=prompts.device)
    return batch.replace(
        prompt_ids=prompts, prompt_mask=torch.arange(width, device=prompts.device) >= width - lengths[:, None]
    )
