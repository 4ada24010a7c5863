"""`Policy`: a causal language model that gives log-probs at the response positions, never the logits of a prompt."""

import copy
import math
import warnings
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from rl4llm.batch import PolicyOutput, RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.log_probs import listed_log_probs, token_log_probs
from rl4llm.masked import at_least_float32, keep
from rl4llm.models.adapters import Adapted, engine_weights, unwrapped
from rl4llm.models.configuration import check_vocabulary, load_config, load_tokenizer
from rl4llm.models.head import LanguageHead, language_head
from rl4llm.models.loading import accepts, end_of_sequence_ids, load_causal_lm, without_dropout
from rl4llm.models.prefixes import for_model, prefix_inputs, response_states, shares_prompts
from rl4llm.models.pretrained import Pretrained, as_pretrained
from rl4llm.models.saving import save_model
from rl4llm.models.weights import check_finite


class Policy(nn.Module):
    """A causal language model and its tokenizer.

    Args:
        model: Any Hugging Face causal language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.end_ids = end_of_sequence_ids(model, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else (self.end_ids or [0])[0]
        self.value_head: Any = None  # put there by a value source that shares the policy's trunk

    @classmethod
    def load(cls, source: "ModelSource") -> "Policy":
        """Load a policy from a name, a `Pretrained`, a model object or another policy.

        Args:
            source: A name or a `Pretrained` is loaded anew. A model object is trained as it is, without dropout, with
                the tokenizer of the folder it came from; of a `PeftModel`, the adapter is trained. A policy is returned
                itself, without dropout.

        Raises:
            UsageError: If the model cannot be loaded, or a model object does not say where its tokenizer is.
        """
        if isinstance(source, Adapted):
            source = unwrapped(source)
        if isinstance(source, PreTrainedModel):
            source = cls(source, tokenizer_beside(source))
        if isinstance(source, Policy):
            check_finite(source, type(source.model).__name__)
            without_dropout(source.model)
            return source
        model = as_pretrained(source)
        tokenizer = load_tokenizer(model)
        check_vocabulary(load_config(model), tokenizer, f"model '{model.name}'", "its own tokenizer")
        policy = cls(load_causal_lm(model), tokenizer)
        size = getattr(policy.model.config.get_text_config(), "vocab_size", math.inf)
        if not any(ident < size for ident in policy.end_ids):
            warnings.warn(
                f"model '{model.name}' names no end token that it could write, so every response runs to the length "
                "limit; set eos_token_id in its generation_config.json.",
                stacklevel=2,
            )
        return policy

    @classmethod
    def copy_of(cls, source: "ModelSource") -> "Policy":
        """Return an independent policy with the same weights, for example the reference.

        Args:
            source: As for [load][rl4llm.models.policy.Policy.load]; what is an object already is copied.
        """
        loaded = cls.load(source)
        if isinstance(source, str | Pretrained):
            return loaded
        return cls(copy.deepcopy(loaded.model), loaded.tokenizer)

    def save(self, folder: str | Path, *, write: bool = True) -> None:
        """Write an ordinary Hugging Face folder, which [load][rl4llm.models.policy.Policy.load] and others read.

        The weights keep their dtype. An adapter is merged into them, and written beside them as the folder `adapter`,
        which `peft` and [load][rl4llm.models.policy.Policy.load] put on the model that it was trained on.

        Args:
            folder: Where the files go.
            write: Whether this process writes. Every rank must call `save` where the weights are sharded.
        """
        save_model(self.model, self.tokenizer, Path(folder), write=write)

    def computing(self) -> AbstractContextManager[None]:
        """Return a context in which the model computes this policy; it always does, unless it is shared."""
        return nullcontext()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, tied ones under each name, as [engine_weights][rl4llm.models.engine_weights] does."""
        return engine_weights(self.model)

    def take(self, policy: "Policy") -> None:
        """Take over the weights of a policy of the same model, as copies."""
        self.model.load_state_dict(policy.model.state_dict())

    @property
    def shares_prompts(self) -> bool:
        """Whether [forward][rl4llm.models.policy.Policy.forward] runs the prompt of several responses once."""
        head = language_head(self.model)
        return head is not None and shares_prompts(head.trunk)

    def forward(self, batch: RolloutBatch, *, temperature: float = 1.0, asks: Collection[str] = ()) -> PolicyOutput:
        """Log-probs of the response tokens, and what else is asked for; 0 where the mask is False.

        Args:
            batch: Prompts and responses.
            temperature: The temperature at which the responses were sampled.
            asks: Further fields of [PolicyOutput][rl4llm.batch.PolicyOutput]: "entropies", "logsumexp", "values",
                "top_log_probs".
        """
        if batch.response_ids.shape[1] == 0:
            return _nothing(batch, asks)
        head, mask = language_head(self.model), batch.response_mask
        way = self._by_logits if head is None else partial(self._by_states, head)
        hidden, found = way(batch, temperature, asks)
        values = self._values(hidden) if "values" in asks else None
        logsumexp = found.logsumexp if "logsumexp" in asks else None
        return found._replace(values=values, logsumexp=logsumexp).map(lambda x: _kept(x, mask))

    def _by_states(
        self, head: LanguageHead, batch: RolloutBatch, temperature: float, asks: Collection[str]
    ) -> tuple[Tensor, PolicyOutput]:
        """Return hidden states and what follows from them at the trained tokens, without full logits."""
        hidden, mask = response_states(head.trunk, batch), batch.response_mask
        trained, ids = hidden[mask], batch.response_ids[mask]
        found, top = head.log_probs(trained, ids, temperature=temperature, entropy="entropies" in asks), None
        if "top_log_probs" in asks and found.logsumexp is not None:
            (top_ids,) = batch.require("top_ids", by="Policy")
            top = head.listed(trained, top_ids[mask], found.logsumexp, temperature=temperature)
        fields = PolicyOutput(found.log_probs, found.entropies, found.logsumexp, top_log_probs=top)
        return hidden, fields.map(lambda x: spread_out(x, mask))

    def _by_logits(self, batch: RolloutBatch, temperature: float, asks: Collection[str]) -> tuple[Tensor, PolicyOutput]:
        """Return the same from the model's own logits; hidden states only if values are asked for."""
        time = batch.response_ids.shape[1]
        inputs = for_model(self.model, prefix_inputs(batch))
        options: dict[str, Any] = {"logits_to_keep": time} if accepts(self.model, "logits_to_keep") else {}
        output = self.model(**inputs, **options, use_cache=False, output_hidden_states="values" in asks)
        logits, top = output.logits[:, -time:], None
        found = token_log_probs(
            logits, batch.response_ids, temperature=temperature, entropy="entropies" in asks, logsumexp=True
        )
        if "top_log_probs" in asks and found.logsumexp is not None:
            (top_ids,) = batch.require("top_ids", by="Policy")
            top = listed_log_probs(logits, top_ids, found.logsumexp, temperature=temperature)
        hidden = output.hidden_states[-1][:, -time:] if "values" in asks else logits
        return hidden, PolicyOutput(found.log_probs, found.entropies, found.logsumexp, top_log_probs=top)

    def _values(self, hidden: Tensor) -> Tensor:
        if self.value_head is None:
            raise UsageError("the policy has no value head; set --model.critics=TrunkCritic.")
        values: Tensor = self.value_head.choice.value(at_least_float32(self.value_head(hidden)))
        return values


def tokenizer_beside(model: PreTrainedModel) -> Tokenizer:
    """Load the tokenizer from the folder that a model object came from."""
    if not model.name_or_path:
        raise UsageError(
            f"the {type(model).__name__} was made from nothing, so nobody knows its tokenizer; pass "
            "Policy(model, tokenizer) instead of the model."
        )
    try:
        return load_tokenizer(Pretrained(model.name_or_path))
    except UsageError as error:
        raise UsageError(f"{error} Or pass Policy(model, tokenizer) instead of the model.") from error


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    """Per-token numbers, or several per token, where the mask is True; 0 elsewhere."""
    return keep(x, mask if x.ndim == mask.ndim else mask[..., None].expand(x.shape))


def spread_out(trained: Tensor, mask: Tensor) -> Tensor:
    """Scatter the numbers of the trained tokens, listed one after another, to their places; 0 elsewhere."""
    whole = trained.new_zeros(*mask.shape, *trained.shape[1:])
    return whole.index_put((mask,), trained)


def _nothing(batch: RolloutBatch, asks: Collection[str]) -> PolicyOutput:
    """What there is to say of a batch without response columns."""
    zeros = torch.zeros(batch.response_ids.shape, device=batch.response_ids.device, dtype=torch.float32)
    asked = {name: zeros for name in ("entropies", "logsumexp", "values") if name in asks}
    return PolicyOutput(zeros, **asked, top_log_probs=batch.top_log_probs if "top_log_probs" in asks else None)


ModelSource = str | Pretrained | PreTrainedModel | Adapted | Policy
