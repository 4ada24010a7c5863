"""`LanguageHead`: how a causal language model turns hidden states into logits."""

import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4llm.linear_log_probs import linear_log_probs, listed_linear_log_probs
from rl4llm.linear_tiles import HeadScale
from rl4llm.log_probs import TokenLogProbs
from rl4llm.models.guard import evaluating
from rl4llm.models.prefixes import has_content, is_sharded

_HEADS: "WeakKeyDictionary[nn.Module, LanguageHead | None]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class LanguageHead:
    """The head of a causal language model: logits = cap · tanh(scale · (W h + b) / cap).

    Args:
        trunk: The model without its head.
        projection: The layer that holds W and b.
        scale: Factor of the logits.
        soft_cap: Bound of the logits; None for none.
    """

    trunk: PreTrainedModel
    projection: nn.Linear
    scale: float = 1.0
    soft_cap: float | None = None

    def log_probs(self, hidden: Tensor, ids: Tensor, *, temperature: float, entropy: bool) -> TokenLogProbs:
        """Compute log-probs, log-normalizers and on request entropies with [linear_log_probs][]."""
        options = {**self._options(), "temperature": temperature, "entropy": entropy}
        found = linear_log_probs(hidden, self.projection.weight, ids, logsumexp=True, **options)
        assert isinstance(found, TokenLogProbs)
        return found

    def listed(self, hidden: Tensor, ids: Tensor, logsumexp: Tensor, *, temperature: float) -> Tensor:
        """Compute log-probs of several tokens per position with [listed_linear_log_probs][]."""
        options = {**self._options(), "temperature": temperature}
        return listed_linear_log_probs(hidden, self.projection.weight, ids, logsumexp, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute all logits, in float32 or wider; for comparison with the model's own."""
        return HeadScale(self.scale, self.soft_cap)(self.projection(hidden))

    def _options(self) -> dict[str, Any]:
        return {"bias": self.projection.bias, "scale": self.scale, "soft_cap": self.soft_cap}


def language_head(model: PreTrainedModel) -> LanguageHead | None:
    """Return the head of a causal language model, or None where it computes something unknown.

    Scale and cap are read from the configuration (`logit_scale` of Cohere, the inverse of `logits_scaling` of Granite,
    `final_logit_softcapping` of Gemma). The first call for a model compares the resulting logits of a few tokens with
    the model's own. If they differ, this and all later calls return None, with one warning. Sharded models give None as
    well, because their weights are whole only inside their own forward pass.
    """
    if is_sharded(model):  # a model may be sharded after its first call
        return None
    if model not in _HEADS:
        head = _read(model)
        _HEADS[model] = head if head is not None and _agrees(model, head) else None
        if _HEADS[model] is None:
            warnings.warn(
                f"{type(model).__name__} computes its logits in a way that rl4llm does not know, so the full logits "
                "are computed, which takes more memory.",
                stacklevel=2,
            )
    return _HEADS[model]


def _read(model: PreTrainedModel) -> LanguageHead | None:
    projection, trunk, config = model.get_output_embeddings(), model.base_model, model.config.get_text_config()
    if type(projection) is not nn.Linear or not isinstance(trunk, PreTrainedModel) or trunk is model:
        return None
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return LanguageHead(trunk, projection, scale, getattr(config, "final_logit_softcapping", None))


def _agrees(model: PreTrainedModel, head: LanguageHead) -> bool:
    """Compare the logits of a few tokens with the model's own, without autocast."""
    size, device = model.config.get_text_config().vocab_size, head.projection.weight.device
    ids = torch.arange(1, 9, device=device).reshape(2, 4) % size
    if not has_content(model):
        return True
    with evaluating(model), torch.autocast(device.type, enabled=False):
        expected = model(input_ids=ids, use_cache=False).logits
        found = head.logits(head.trunk(input_ids=ids, use_cache=False).last_hidden_state)
    if expected.shape != found.shape:
        return False
    tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((expected - found).abs().amax() <= tolerance * expected.abs().amax().clamp(min=1e-6))
