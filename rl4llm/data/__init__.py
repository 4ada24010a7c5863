"""Tasks (prompts with a verifier) and the loaders that yield their prompts."""

from rl4llm.data.absolute_difference import AbsoluteDifference, answer_after_thinking
from rl4llm.data.json_lines import JsonLines
from rl4llm.data.module import PromptData
from rl4llm.data.task import Example, PromptBatch, Task

__all__ = ["AbsoluteDifference", "Example", "JsonLines", "PromptBatch", "PromptData", "Task", "answer_after_thinking"]
