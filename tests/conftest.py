"""Shared set-up: Hypothesis profiles, one torch thread, and a switch for tests of our own shape messages.

Lightning and transformers are imported here, before any module of the package. The hook that checks shapes also
replaces the bytecode cache of whatever is imported while a checked module loads, so they would be compiled again.
"""

import gc
import os
from importlib import import_module

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from tests import shape_checks

SLOW_TO_COMPILE = (
    "lightning.pytorch.cli",
    "transformers.modeling_utils",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.tokenization_utils_tokenizers",
)
shape_checks.install()
for name in SLOW_TO_COMPILE:
    import_module(name)

patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a busy machine is no failing law
settings.register_profile("ci", derandomize=True, max_examples=30, **patient)
settings.register_profile("thorough", max_examples=500, **patient)
settings.register_profile("nightly", max_examples=20_000, **patient)
settings.register_profile(
    "mutants",
    derandomize=True,
    max_examples=int(os.environ.get("RL4LLM_EXAMPLES", 20)),
    phases=[Phase.explicit, Phase.generate],
    **patient,
)
settings.load_profile(os.environ.get("RL4LLM_PROFILE", "ci"))
torch.set_num_threads(1)


def pytest_collection_finish():
    """Spare the garbage collector the modules and tests, which live as long as the process."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unchecked_shapes():
    """Lets wrong shapes through jaxtyping, to see the library's own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    """Folder of an untrained policy of a few thousand weights over digits."""
    return _tiny(tmp_path_factory.mktemp("policy"), hidden_size=32, layers=1, seed=0)


@pytest.fixture(scope="session")
def tiny_critic(tmp_path_factory):
    """Folder of a still smaller model for critics."""
    return _tiny(tmp_path_factory.mktemp("critic"), hidden_size=16, layers=1, seed=1)


def _tiny(folder, **sizes):
    from rl4llm.models import Policy, TinyQwen3

    Policy(*TinyQwen3(heads=2, key_value_heads=1, head_size=8, context=64, **sizes).build()).save(folder)
    return str(folder)
