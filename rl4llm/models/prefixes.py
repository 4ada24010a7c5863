"""Hidden states at the response positions; whatever several rows have in common is computed once."""

import warnings
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rl4llm.batch import RolloutBatch
from rl4llm.groups import first_rows
from rl4llm.models.guard import evaluating
from rl4llm.models.loading import accepts, cache_argument

LEAST_SAVED = 0.15  # share of the tokens below which a second forward pass costs more than it saves

_OBSTACLES: "WeakKeyDictionary[nn.Module, str | None]" = WeakKeyDictionary()
_SAID: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


class Sequences(NamedTuple):
    """Fields of a [RolloutBatch][rl4llm.batch.RolloutBatch] that a model reads."""

    prompt_ids: Int[Tensor, "batch prompt"]
    prompt_mask: Bool[Tensor, "batch prompt"]
    response_ids: Int[Tensor, "batch time"]


def positions(attention_mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Position of every token in its own sequence, whatever stands left of it as padding."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def sequence_inputs(batch: RolloutBatch | Sequences, response_ids: Int[Tensor, "batch time"]) -> dict[str, Tensor]:
    """Build model inputs from the prompts, followed by the given tokens of their responses.

    Right padding needs no masking, since no earlier token sees it; tool output inside a response is seen.
    """
    attention = torch.cat([batch.prompt_mask, torch.ones_like(response_ids, dtype=torch.bool)], dim=-1)
    ids = torch.cat([batch.prompt_ids, response_ids], dim=-1)
    return {"input_ids": ids, "attention_mask": attention.long(), "position_ids": positions(attention)}


def prefix_inputs(batch: RolloutBatch | Sequences) -> dict[str, Tensor]:
    """Build model inputs without the last response token: the last T positions are the prefixes sₜ of the T tokens."""
    return sequence_inputs(batch, batch.response_ids[:, :-1])


def for_model(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs without position ids where the model takes none."""
    known = accepts(model, "position_ids")
    return {name: tensor for name, tensor in inputs.items() if known or name != "position_ids"}


class Distinct(NamedTuple):
    """Rows that differ from one another.

    Attributes:
        rows: The first row of each kind.
        places: Index of each row's kind among them.
    """

    rows: Int[Tensor, " kind"]
    places: Int[Tensor, " batch"]


def distinct_prompts(ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"]) -> Distinct:
    """Find the rows that have the same prompt, token by token; padding is not read.

    Example:
        >>> ids = torch.tensor([[5, 6], [0, 6], [5, 6]])
        >>> distinct_prompts(ids, ids > 0)
        Distinct(rows=tensor([1, 0]), places=tensor([1, 0, 1]))
    """
    return _distinct(torch.where(mask, ids, -1))


def distinct_sequences(sequences: Sequences) -> Distinct:
    """Find the rows that have the same prompt and the same response but for its last column, which no model reads.

    Example:
        >>> ids, responses = torch.tensor([[5], [5], [5]]), torch.tensor([[7, 1], [7, 2], [8, 1]])
        >>> distinct_sequences(Sequences(ids, ids > 0, responses))
        Distinct(rows=tensor([0, 2]), places=tensor([0, 0, 1]))
    """
    prompts = torch.where(sequences.prompt_mask, sequences.prompt_ids, -1)
    return _distinct(torch.cat([prompts, sequences.response_ids[:, :-1]], dim=-1))


def _distinct(rows: Tensor) -> Distinct:
    if not len(rows):
        return Distinct(rows.new_zeros(0), rows.new_zeros(0))
    kinds, places = rows.unique(dim=0, return_inverse=True)
    return Distinct(first_rows(places, len(kinds)), places)


def response_states(trunk: PreTrainedModel, batch: RolloutBatch) -> Float[Tensor, "batch time width"]:
    """Compute the last hidden state of each prefix sₜ, from which the model predicts token t.

    Rows with the same tokens are computed once. Different responses to the same prompt share one computation of it: a
    first pass over the distinct prompts fills a key-value cache, every row takes its prompt's entries with their
    gradient, and a second pass covers the responses alone. States and gradients equal those of all whole rows up to
    rounding. Rows run whole if sharing would save little, or if the model cannot share ([shares_prompts][]).

    Args:
        trunk: A model without head.
        batch: Prompts and responses, at least one column of them.

    Returns:
        h(sₜ), t in [0, T), with gradient.
    """
    sequences = Sequences(batch.prompt_ids, batch.prompt_mask, batch.response_ids)
    rows, places = distinct_sequences(sequences)
    if len(rows) == len(places):
        return _states(trunk, sequences)
    return _states(trunk, Sequences(*(field[rows] for field in sequences)))[places]


def _states(trunk: PreTrainedModel, sequences: Sequences) -> Float[Tensor, "batch time width"]:
    prompts = distinct_prompts(sequences.prompt_ids, sequences.prompt_mask)
    if _saved_share(sequences, prompts) < LEAST_SAVED or not shares_prompts(trunk):
        return states_by_rows(trunk, sequences)
    return states_shared(trunk, sequences, prompts)


def prompt_states(trunk: PreTrainedModel, batch: RolloutBatch) -> Float[Tensor, "batch width"]:
    """Compute the last hidden state of each row's prompt, running each distinct prompt once."""
    prompts = distinct_prompts(batch.prompt_ids, batch.prompt_mask)
    inputs = for_model(trunk, _prompt_inputs(batch.prompt_ids[prompts.rows], batch.prompt_mask[prompts.rows]))
    hidden: Tensor = trunk(**inputs, use_cache=False).last_hidden_state
    return hidden[:, -1][prompts.places]


def _saved_share(sequences: Sequences, prompts: Distinct) -> float:
    """Share of the tokens in a pass over whole rows that repeat a prompt of another row."""
    rows, prompt, response = len(prompts.places), sequences.prompt_ids.shape[1], sequences.response_ids.shape[1]
    return (rows - len(prompts.rows)) * prompt / max(1, rows * (prompt + response - 1))


def _prompt_inputs(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions(mask)}


def states_by_rows(trunk: PreTrainedModel, sequences: Sequences) -> Float[Tensor, "batch time width"]:
    """Compute [response_states][] with every row run whole."""
    inputs = for_model(trunk, prefix_inputs(sequences))
    hidden: Tensor = trunk(**inputs, use_cache=False).last_hidden_state
    return hidden[:, -sequences.response_ids.shape[1] :]


def states_shared(trunk: PreTrainedModel, sequences: Sequences, prompts: Distinct) -> Float[Tensor, "batch time width"]:
    """Compute [response_states][] with each distinct prompt run once."""
    cache = DynamicCache(config=trunk.config)
    cached = {cache_argument(trunk): cache}
    inputs = _prompt_inputs(sequences.prompt_ids[prompts.rows], sequences.prompt_mask[prompts.rows])
    output: Any = trunk(**for_model(trunk, inputs), **cached, use_cache=True)
    first = output.last_hidden_state[:, -1:][prompts.places]
    if sequences.response_ids.shape[1] == 1:
        return first
    cache.batch_select_indices(prompts.places)
    length = sequences.prompt_ids.shape[1]
    rest = {n: x if n == "attention_mask" else x[:, length:] for n, x in prefix_inputs(sequences).items()}
    output = trunk(**for_model(trunk, rest), **cached, use_cache=True)
    return torch.cat([first, output.last_hidden_state], dim=1)


def shares_prompts(trunk: PreTrainedModel) -> bool:
    """Return whether responses can continue from a cache of their prompt, with gradient.

    The first call for a model compares both ways on a few tokens. A model that cannot share is named in one warning.
    """
    if is_sharded(trunk):  # this and the next property may change after the first call
        return _warn(trunk, "is sharded")
    if checkpoints_activations(trunk):
        return _warn(trunk, "recomputes activations in backward")
    if trunk not in _OBSTACLES:
        _OBSTACLES[trunk] = _obstacle(trunk)
    reason = _OBSTACLES[trunk]
    return reason is None or _warn(trunk, reason)


def _warn(trunk: PreTrainedModel, reason: str) -> Literal[False]:
    """Say it once for each model."""
    if _SAID.get(trunk) != reason:
        _SAID[trunk] = reason
        message = f"{type(trunk).__name__} {reason}, so every prompt is computed again for each of its responses."
        warnings.warn(message, stacklevel=3)
    return False


def checkpoints_activations(model: PreTrainedModel) -> bool:
    """Return whether the model recomputes activations in backward; transformers renamed the flag within version 5."""
    found = getattr(model, "is_activation_checkpointing", None)
    return bool(model.is_gradient_checkpointing if found is None else found)


def has_content(model: nn.Module) -> bool:
    """Return whether there are weights to compute with; a model that is only measured has none."""
    weight = next(iter(model.parameters()), None)
    return not (isinstance(weight, FakeTensor) or (weight is not None and weight.is_meta))


def is_sharded(model: nn.Module) -> bool:
    """Return whether each rank holds only a part of the weights, so that all ranks must run the same passes."""
    if isinstance(next(iter(model.parameters()), None), DTensor):
        return True
    return any(isinstance(module, FSDPModule) for module in model.modules())  # weights may be whole between two passes


def _obstacle(trunk: PreTrainedModel) -> str | None:
    """Return the reason why a model cannot share prompts; None if it can."""
    if not (accepts(trunk, cache_argument(trunk)) and accepts(trunk, "use_cache")):
        return "takes no cache"
    if not all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=trunk.config).layers):
        return "keeps more state than keys and values"
    return _difference(trunk) if has_content(trunk) else None


def _difference(trunk: PreTrainedModel) -> str | None:
    """Compare whole rows with shared prompts on two responses to one prompt and one to another."""
    device, size = next(iter(trunk.parameters())).device, trunk.config.get_text_config().vocab_size
    ids = torch.arange(1, 16, device=device).reshape(3, 5) % size
    ids[1, :3] = ids[0, :3]
    trial = Sequences(ids[:, :3], torch.ones_like(ids[:, :3], dtype=torch.bool), ids[:, 3:])
    prompts = distinct_prompts(trial.prompt_ids, trial.prompt_mask)
    with evaluating(trunk), torch.autocast(device.type, enabled=False):
        rows, shared = states_by_rows(trunk, trial), states_shared(trunk, trial, prompts)
    tolerance = 1e-3 if rows.dtype in (torch.float32, torch.float64) else 5e-2
    same = (rows - shared).abs().amax() <= tolerance * rows.abs().amax()
    return None if same else "gives other numbers when it continues from a cache"
