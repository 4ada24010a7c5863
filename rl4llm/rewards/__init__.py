"""Rewards: functions that verify a response, and what becomes of those that fail to."""

from rl4llm.rewards.base import Reward, Scores, score_responses

__all__ = ["Reward", "Scores", "score_responses"]
