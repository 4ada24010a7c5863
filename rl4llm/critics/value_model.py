"""`ValueModel`: any Hugging Face backbone with a value head."""

from typing import Literal, get_args

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_choice
from rl4llm.critics.heads import Head, LinearHead
from rl4llm.critics.layers import ValueHead
from rl4llm.masked import at_least_float32, keep
from rl4llm.models.loading import context_length
from rl4llm.models.policy import ModelSource
from rl4llm.models.prefixes import prompt_states, response_states, shares_prompts
from rl4llm.models.sources import load_backbone

Inputs = Literal["prefix", "prompt"]
INPUTS = get_args(Inputs)


class ValueModel(nn.Module):
    """V(sₜ) at every response position, from the prefix sₜ before token t or from the prompt x alone.

        zₜ = W hₜ + b        V(sₜ) = value of zₜ by the head

    hₜ is the backbone's last hidden state at the position that predicts token t, so V(s₀) is read at the last prompt
    token and never sees token t. With `inputs="prompt"` h₀ stands at every token, and nothing behind the prompt is
    read.

    Args:
        backbone: Any Hugging Face model without head.
        head: How many outputs, and how they say a value.
        inputs: What it reads: "prefix" or "prompt".
        head_scale: Standard deviation of the new head's weights, times 1/√width; each critic draws its own.
        generator: Of the head's weights.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        head: Head = LinearHead(),
        *,
        inputs: Inputs = "prefix",
        head_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("ValueModel", INPUTS, inputs=inputs)
        self.backbone, self.inputs = backbone, inputs
        width = backbone.config.get_text_config().hidden_size
        self.head = ValueHead(width, head, scale=head_scale, generator=generator)

    @classmethod
    def load(
        cls,
        source: ModelSource,
        head: Head = LinearHead(),
        *,
        inputs: Inputs = "prefix",
        head_scale: float = 1.0,
        seed: int = 0,
    ) -> "ValueModel":
        """Load a model by name or object, with a new head; no weight is shared with a model object."""
        generator = torch.Generator().manual_seed(seed)
        return cls(load_backbone(source), head, inputs=inputs, head_scale=head_scale, generator=generator)

    @property
    def shares_prompts(self) -> bool:
        """Whether [outputs][rl4llm.critics.value_model.ValueModel.outputs] run the prompt of several responses once."""
        return self.inputs == "prompt" or shares_prompts(self.backbone)

    def forward(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return V(sₜ) of every response token, 0 where the mask is False; float32 or wider."""
        return self.read(self.outputs(batch), batch)

    def outputs(self, batch: RolloutBatch) -> Float[Tensor, "batch time output"]:
        """Return zₜ at every response position, masked ones included; float32 or wider."""
        time = batch.response_ids.shape[1]
        if time == 0:
            shape = (*batch.response_ids.shape, self.head.choice.size)
            return torch.zeros(shape, device=batch.response_ids.device, dtype=torch.float32)
        if self.inputs == "prompt":
            self._check_context(batch.prompt_mask)
            last = self.head(prompt_states(self.backbone, batch))
            return at_least_float32(repeat(last, "batch output -> batch time output", time=time))
        self._check_context(torch.cat([batch.prompt_mask, torch.ones_like(batch.response_mask[:, 1:])], dim=-1))
        return at_least_float32(self.head(response_states(self.backbone, batch)))

    def read(self, outputs: Float[Tensor, "batch time output"], batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """Return V(sₜ) from the outputs, 0 where the mask is False."""
        return keep(self.head.choice.value(outputs), batch.response_mask)

    def readings(self, batch: RolloutBatch) -> Float[Tensor, "kind batch time"]:
        """Stack the values and, if the head predicts it, the spread of the return; 0 where the mask is False."""
        outputs, head = self.outputs(batch), self.head.choice
        kinds = [head.value(outputs), *([head.spread(outputs)] if head.spreads else [])]
        return torch.stack([keep(x, batch.response_mask) for x in kinds])

    def _check_context(self, attended: Tensor) -> None:
        context = context_length(self.backbone)
        if context is None or attended.shape[1] <= context:  # padding included, so that nothing is read off a device
            return
        longest = int(attended.sum(-1).max())
        if longest > context:
            alone = self.inputs == "prompt"
            what = "the prompt takes" if alone else "prompt and response take"
            remedy = "" if alone else "lower max_response_tokens, "
            raise UsageError(
                f"a critic, {type(self.backbone).__name__}, has a context of {context} tokens, but {what} {longest}; "
                f"{remedy}shorten the prompts, or take another critic."
            )
