"""`ValueModel`: any Hugging Face backbone with a value head."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.critics.heads import Float32Linear
from rl4llm.masked import at_least_float32, keep
from rl4llm.models.loading import context_length
from rl4llm.models.policy import ModelSource, for_model, prefix_inputs
from rl4llm.models.sources import load_backbone


class ValueModel(nn.Module):
    """V(sₜ) at every response position, from the prefix sₜ before token t.

        V(sₜ) = wᵀ hₜ + b

    hₜ is the backbone's last hidden state at the position that predicts token t, so V(s₀) is read at the last prompt
    token and never sees token t.

    Args:
        backbone: Any Hugging Face model without head.
        head_scale: Standard deviation of the new head's weights, times 1/√width; each critic draws its own.
        generator: Of the head's weights.
    """

    def __init__(
        self, backbone: PreTrainedModel, *, head_scale: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.get_text_config().hidden_size
        self.head = Float32Linear(width, 1)
        nn.init.normal_(self.head.weight, std=head_scale * width**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def load(cls, source: ModelSource, *, head_scale: float = 1.0, seed: int = 0) -> "ValueModel":
        """Load a model by name or object, with a new head; no weight is shared with a model object."""
        generator = torch.Generator().manual_seed(seed)
        return cls(load_backbone(source), head_scale=head_scale, generator=generator)

    def forward(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """V(sₜ) of every response token, 0 where the mask is False; float32 or wider."""
        time = batch.response_ids.shape[1]
        if time == 0:
            return torch.zeros(batch.response_ids.shape, device=batch.response_ids.device, dtype=torch.float32)
        inputs = prefix_inputs(batch)
        self._check_context(inputs["position_ids"])
        inputs = for_model(self.backbone, inputs)
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state[:, -time:]
        values = rearrange(self.head(hidden), "batch time 1 -> batch time")
        return keep(at_least_float32(values), batch.response_mask)

    def _check_context(self, positions: Tensor) -> None:
        context = context_length(self.backbone)
        if context is None or positions.shape[1] <= context:  # padding included, so that nothing is read off a device
            return
        longest = int(positions.max()) + 1
        if longest > context:
            raise UsageError(
                f"a critic, {type(self.backbone).__name__}, has a context of {context} tokens, but prompt and response "
                f"take {longest}; lower max_response_tokens, shorten the prompts, or take another critic."
            )
