"""Rewards: functions that verify a response, what becomes of those that fail to, and charges beside the score."""

from rl4llm.rewards.base import Reward, Verifier, score_responses
from rl4llm.rewards.exact_match import ExactMatch
from rl4llm.rewards.length import OverlongPenalty, overlong_penalty
from rl4llm.rewards.math_verify import MathVerify
from rl4llm.rewards.numeric_match import NumericMatch
from rl4llm.rewards.scorer import Scorer, Scoring
from rl4llm.rewards.scores import Scores
from rl4llm.rewards.shaping import RewardShaping
from rl4llm.rewards.verdicts import Score

__all__ = [
    # What a reward is
    "Reward",
    "Verifier",
    "Score",
    "Scores",
    "score_responses",
    # Verifiers
    "ExactMatch",
    "NumericMatch",
    "MathVerify",
    # Running them
    "Scoring",
    "Scorer",
    # Shaping
    "RewardShaping",
    "overlong_penalty",
    "OverlongPenalty",
]
