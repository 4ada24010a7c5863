"""Rewards: functions that verify a response, what becomes of those that fail to, and charges beside the score."""

from rl4llm.rewards.base import Reward, Scores, score_responses
from rl4llm.rewards.length import OverlongPenalty, overlong_penalty
from rl4llm.rewards.scorer import Scorer, Scoring
from rl4llm.rewards.shaping import RewardShaping

__all__ = [
    # Verifiers
    "Reward",
    "Scores",
    "score_responses",
    # Running them
    "Scoring",
    "Scorer",
    # Shaping
    "RewardShaping",
    "overlong_penalty",
    "OverlongPenalty",
]
