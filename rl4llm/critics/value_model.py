"""`ValueModel`: any Hugging Face backbone with a value head."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4llm.batch import RolloutBatch
from rl4llm.models.loading import load_backbone
from rl4llm.models.policy import for_model, prefix_inputs


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
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=head_scale * width**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def load(cls, name: str, *, head_scale: float = 1.0, seed: int = 0) -> "ValueModel":
        """From a hub name, a local folder or an embedded model, with a fresh head."""
        generator = torch.Generator().manual_seed(seed)
        return cls(load_backbone(name), head_scale=head_scale, generator=generator)

    def forward(self, batch: RolloutBatch) -> Float[Tensor, "batch time"]:
        """V(sₜ) of every response token, 0 where the mask is False; float32 or wider."""
        time = batch.response_ids.shape[1]
        if time == 0:
            return torch.zeros(batch.response_ids.shape, device=batch.response_ids.device)
        inputs = for_model(self.backbone, prefix_inputs(batch))
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state[:, -time:]
        values = rearrange(self.head(hidden), "batch time 1 -> batch time")
        values = values if values.dtype == torch.float64 else values.float()
        return torch.where(batch.response_mask, values, torch.zeros_like(values))
