"""The laws as a kit: strategies that draw valid batches, checks for parts of any library, oracles and exact biases."""

from importlib import import_module
from typing import Any

# Loaded on first use, so that the pytest plugin costs nothing where it is not asked for.
_PLACES = {
    "check": "checks",
    "check_advantage_estimator": "checks",
    "check_aggregator": "checks",
    "check_engine": "engine_laws",
    "check_gate": "checks",
    "check_objective": "checks",
    "check_regularizer": "checks",
    "check_reward": "reward_laws",
    "check_value_source": "checks",
    "laws_of": "checks",
    "LAWS": "checks",
    "Law": "laws",
    "Broken": "runner",
    "BrokenLawsError": "runner",
    "broken": "runner",
    "examine": "examination",
    "require": "examination",
    "Domain": "domains",
    "from_kl": "adapters",
    "from_log_probs": "adapters",
    "from_scores": "adapters",
    "from_token_rewards": "adapters",
    "expected_update": "bias",
    "policy_gradient": "bias",
    "expected_kl": "kl",
    "kl_divergence": "kl",
    "gradients": "batching",
    "partition": "batching",
    "group_ids": "strategies",
    "masks": "strategies",
    "rollouts": "strategies",
    "scores": "strategies",
    "tensors": "strategies",
    "log_probs": "strategies",
    "ORACLES": "reference.oracles",
    "COEFFICIENTS": "reference.oracles",
    "describe": "views",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
