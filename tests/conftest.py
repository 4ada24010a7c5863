"""Shared set-up: Hypothesis profiles, one torch thread, and a switch for tests of our own shape messages."""

import os

import jaxtyping
import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("nightly", deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("RL4LLM_PROFILE", "ci"))
torch.set_num_threads(1)


@pytest.fixture
def unchecked_shapes():
    """Lets wrong shapes through jaxtyping, to see the library's own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
