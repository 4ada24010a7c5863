"""The head of a language model: what it makes of a hidden state, read from the model and tried out once."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rl4llm.linear_log_probs import linear_log_probs, listed_linear_log_probs
from rl4llm.log_probs import TokenLogProbs
from rl4llm.models.prefixes import is_sharded

_HEADS: "WeakKeyDictionary[nn.Module, LanguageHead | None]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class LanguageHead:
    """A projection and what follows it: logits = cap · tanh(scale · (W h + b) / cap).

    Args:
        trunk: The model below it.
        projection: W and b.
        scale: What the logits are multiplied by.
        soft_cap: Where they are capped; None: nowhere.
    """

    trunk: PreTrainedModel
    projection: nn.Linear
    scale: float = 1.0
    soft_cap: float | None = None

    def log_probs(self, hidden: Tensor, ids: Tensor, *, temperature: float, entropy: bool) -> TokenLogProbs:
        """Log-probs, log-normalizers and on request entropies, by [linear_log_probs][]."""
        found = linear_log_probs(
            hidden,
            self.projection.weight,
            ids,
            bias=self.projection.bias,
            temperature=temperature,
            scale=self.scale,
            soft_cap=self.soft_cap,
            entropy=entropy,
            logsumexp=True,
        )
        assert isinstance(found, TokenLogProbs)
        return found

    def listed(self, hidden: Tensor, ids: Tensor, logsumexp: Tensor, *, temperature: float) -> Tensor:
        """Log-probs of several tokens a position, by [listed_linear_log_probs][]."""
        return listed_linear_log_probs(
            hidden,
            self.projection.weight,
            ids,
            logsumexp,
            bias=self.projection.bias,
            temperature=temperature,
            scale=self.scale,
            soft_cap=self.soft_cap,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits as a whole."""
        x = self.projection(hidden) * self.scale
        return x if self.soft_cap is None else self.soft_cap * torch.tanh(x / self.soft_cap)


def language_head(model: PreTrainedModel) -> LanguageHead | None:
    """Give the head of a causal language model; None where it does more than is known here.

    The scale is read from the configuration (Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`, Gemma's
    `final_logit_softcapping`). Then the logits of a few tokens are compared with the model's own, once for each
    model: where they differ, its own are used from then on, as a whole, and that is said once. So it is for sharded
    weights, which are whole only inside the model's own forward pass.
    """
    if is_sharded(model):  # may become so while a model lives
        return None
    if model not in _HEADS:
        head = _read(model)
        _HEADS[model] = head if head is not None and _agrees(model, head) else None
        if _HEADS[model] is None:
            warnings.warn(
                f"{type(model).__name__} makes its logits in a way that is not known here, so they exist as a whole, "
                "which takes more memory.",
                stacklevel=2,
            )
    return _HEADS[model]


def _read(model: PreTrainedModel) -> LanguageHead | None:
    projection, trunk, config = model.get_output_embeddings(), model.base_model, model.config.get_text_config()
    if type(projection) is not nn.Linear or not isinstance(trunk, PreTrainedModel) or trunk is model:
        return None
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return LanguageHead(trunk, projection, scale, getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def _agrees(model: PreTrainedModel, head: LanguageHead) -> bool:
    size = model.config.get_text_config().vocab_size
    ids = torch.arange(1, 9, device=head.projection.weight.device).reshape(2, 4) % size
    with _evaluating(model):
        expected = model(input_ids=ids, use_cache=False).logits
        found = head.logits(head.trunk(input_ids=ids, use_cache=False).last_hidden_state)
    tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 2e-2
    return expected.shape == found.shape and bool(
        (expected - found).abs().amax() <= tolerance * expected.abs().amax().clamp(min=1e-6)
    )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
