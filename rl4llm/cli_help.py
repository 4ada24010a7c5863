"""The help of the standard slots, written once for all recipes."""

import inspect
import re
from collections.abc import Callable
from typing import Any

STANDARD_SLOTS: dict[str, str] = {
    "policy": "Model that is trained: a hub name, a folder, an embedded model, or a `Pretrained`.",
    "engine": "Engine that generates the responses.",
    "sampling": "Temperature, filters and length limit of the sampled responses.",
    "responses_per_prompt": "Number of responses per prompt.",
    "dynamic_sampling": "Draws further prompts until enough groups have unequal scores; null takes every group.",
    "replay": "Earlier responses that are trained on beside the fresh ones; null trains on fresh responses only.",
    "critics": "Value source: where values come from; null for methods without values.",
    "advantage": "Estimator that turns scores or rewards (and values) into advantages.",
    "whitening": "Normalization of the advantages over the rollout batch; null leaves them as they are.",
    "correction": "Weights for the mismatch between the engine's and the trainer's log-probs; null for none.",
    "shaping": "Rewards beyond the score, such as a charge on length or on divergence from the reference.",
    "gate": "Selects the response tokens that the objective learns from; null selects all of them.",
    "objective": "Loss of the policy.",
    "value": "Loss of a value head on the policy's own trunk.",
    "regularizers": "Penalties added to the objective, by slot name.",
    "entropy": "Entropy bonus, optionally restricted to some tokens; null for none.",
    "kl": "Penalty on the divergence from the reference policy; null for none.",
    "kl_reward": "Charge on the divergence from the reference policy, as a part of the reward; null for none.",
    "length_penalty": "Charge on the response length, as a part of the reward; null for none.",
    "likelihood": "Imitation of correct responses, added to the objective; null for none.",
    "variance": "Charge on the variance of the probability ratio; null for none.",
    "aggregator": "Reduction of per-token or per-response losses to a scalar.",
    "updates": "Epochs, minibatches, clip-norm and learning-rate schedule of the policy.",
    "critic_updates": "Epochs, minibatches, clip-norm and learning-rate schedule of the critics.",
    "optimizer": "Optimizer of the policy.",
    "critic_optimizer": "Optimizer of each critic; null uses the same as for the policy.",
    "learn_critics_first": "Train the critics on a rollout batch before their values are used for it.",
    "critic_warmup": "Number of rollout batches at the start that train the critics only.",
    "trust_rollout_log_probs": "Use the engine's log-probs as the old ones instead of computing them again.",
    "reference_interval": "Number of rollout batches after which the reference is set to the policy; null never does.",
    "evaluation": "How the policy is evaluated on held-out prompts.",
    "rollout": "How responses are made: engine, sampling, responses per prompt, dynamic sampling, replay.",
    "credit": "From rewards to advantages: critics, estimator, whitening, correction, shaping.",
    "loss": "From advantages to a scalar: objective, gate, regularizers, aggregator.",
    "learning": "How the policy is updated: optimizer and updates.",
    "critic_learning": "How the critics are updated: optimizer and updates.",
    "options": "Any other setting of the algorithm.",
}

_ENTRY = re.compile(r"^\s+\*{0,2}(\w+)(?: \([^)]*\))?:", re.MULTILINE)
_SECTION = re.compile(r"^(Args|Arguments):[ ]*\n((?:[ \t]+.*(?:\n|$)|[ \t]*\n)*)", re.MULTILINE)


def complete_help(recipe: Callable[..., Any]) -> None:
    """Add the standard slots that a recipe's docstring does not describe to its `Args:` section, in place.

    The command line takes its help from there. What the recipe says of a slot itself stays.

    Args:
        recipe: A recipe function.

    Example:
        >>> def mine(policy="x", gate=None, twist=1): '''Train with a twist.'''
        >>> complete_help(mine)
        >>> mine.__doc__.splitlines()[3]
        '    policy: Model that is trained: a hub name, a folder, an embedded model, or a `Pretrained`.'
    """
    text = inspect.cleandoc(recipe.__doc__ or f"Run {recipe.__name__}.")
    section = _SECTION.search(text)
    described = dict.fromkeys(_ENTRY.findall(section[2])) if section else {}
    missing = [name for name in inspect.signature(recipe).parameters if name in STANDARD_SLOTS.keys() - described]
    if not missing:
        return
    lines = "".join(f"    {name}: {STANDARD_SLOTS[name]}\n" for name in missing)
    if section is None:
        recipe.__doc__ = f"{text}\n\nArgs:\n{lines}"
    else:
        end = section.start(2) + len(section[2].rstrip())
        recipe.__doc__ = f"{text[:end]}\n{lines}{text[end:]}"
