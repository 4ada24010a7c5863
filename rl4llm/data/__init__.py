"""Tasks (prompts with a verifier), the loaders that yield their prompts, and which of them come next."""

from rl4llm.data.absolute_difference import AbsoluteDifference, answer_after_thinking
from rl4llm.data.json_lines import JsonLines
from rl4llm.data.module import PromptData
from rl4llm.data.samplers import Filtered, Prioritized, PromptSampler, Steps
from rl4llm.data.task import Example, PromptBatch, Task

__all__ = [
    # tasks
    "Task",
    "Example",
    "PromptBatch",
    "AbsoluteDifference",
    "answer_after_thinking",
    "JsonLines",
    # loaders
    "PromptData",
    # which prompts come next
    "PromptSampler",
    "Prioritized",
    "Filtered",
    "Steps",
]
