"""Hidden states of one layer of the policy, for value sources that read them."""

from typing import Any

from torch import Tensor

from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError
from rl4llm.log_probs import token_log_probs
from rl4llm.masked import keep
from rl4llm.models.loading import accepts
from rl4llm.models.policy import Policy
from rl4llm.models.prefixes import for_model, sequence_inputs
from rl4llm.states import PolicyStates


def layer_index(by: str, layer: float, layers: int) -> int:
    """Return the index of the chosen layer among a model's hidden states: 0 for the embeddings, `layers` for the last.

    Args:
        by: Who asks, for the message.
        layer: A whole number counts layers, negative ones from the last (−1); a number with a point in [0, 1] is a
            share of the layers, rounded.
        layers: How many layers the model has.

    Raises:
        UsageError: If there is no such layer.

    Example:
        >>> layer_index("CrossRolloutProbe", 0.5, 28), layer_index("CrossRolloutProbe", -1, 28)
        (14, 28)
    """
    if isinstance(layer, float) and 0.0 <= layer <= 1.0:
        return round(layer * layers)
    if isinstance(layer, float) or not -layers - 1 <= layer <= layers:
        raise UsageError(
            f"{by}: layer={layer}, and the policy has {layers} layers; give a share from 0.0 to 1.0, or a whole number "
            f"from {-layers - 1} to {layers}."
        )
    return layer if layer >= 0 else layer + layers + 1


def policy_states(policy: Policy, batch: RolloutBatch, *, layer: float, temperature: float = 1.0) -> PolicyStates:
    """Return the hidden states of a layer at all prompt and response tokens, and the entropies of the response tokens.

    One forward pass over prompts and whole responses. Gradient flows unless the caller turns it off.

    Args:
        policy: Any causal language model; its `forward` must take `output_hidden_states`, as Hugging Face's do.
        batch: Prompts and responses, few enough for one pass.
        layer: As for [layer_index][rl4llm.models.states.layer_index].
        temperature: The temperature at which the responses were sampled; that of the entropies.

    Returns:
        States at padding and at tokens that are not trained are the model's own and mean nothing; entropies are 0
        where `response_mask` is False.

    Raises:
        UsageError: If the model has no such layer.
    """
    time, model = batch.response_ids.shape[1], policy.model
    inputs = for_model(model, sequence_inputs(batch, batch.response_ids))
    options: dict[str, Any] = {"logits_to_keep": time + 1} if accepts(model, "logits_to_keep") else {}
    output = model(**inputs, **options, use_cache=False, output_hidden_states=True)
    hidden: Tensor = output.hidden_states[layer_index("policy_states", layer, len(output.hidden_states) - 1)]
    prompts = batch.prompt_ids.shape[1]
    logits = output.logits[:, -time - 1 : -1]
    entropies = token_log_probs(logits, batch.response_ids, temperature=temperature, entropy=True).entropies
    assert entropies is not None
    return PolicyStates(hidden[:, :prompts], hidden[:, prompts:], keep(entropies, batch.response_mask))
