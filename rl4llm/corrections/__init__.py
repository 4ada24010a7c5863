"""Corrections: how much a token counts whose engine and trainer disagree about its probability."""

from rl4llm.corrections.base import Correction
from rl4llm.corrections.masked import IcePop, MaskedImportance, masked_importance
from rl4llm.corrections.truncated import TruncatedImportance, truncated_importance
from rl4llm.corrections.weights import engine_log_ratio

__all__ = [
    # The family
    "Correction",
    # Weights with a cap
    "truncated_importance",
    "TruncatedImportance",
    # Weights or responses within bounds
    "masked_importance",
    "IcePop",
    "MaskedImportance",
    # Building block
    "engine_log_ratio",
]
