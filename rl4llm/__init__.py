"""RL-for-LLM parts and recipes that compose them. Import the family you need: `from rl4llm.advantages import gae`."""

__version__ = "0.1.0"
