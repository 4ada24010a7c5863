"""Tasks (prompts with a verifier), the loaders that yield their prompts, and which of them come next."""

from rl4llm.data.absolute_difference import AbsoluteDifference, answer_after_thinking
from rl4llm.data.extraction import ExtractsAnswers, extracted_answer, last_answer
from rl4llm.data.json_lines import JsonLines
from rl4llm.data.module import PromptData
from rl4llm.data.samplers import Filtered, Place, Prioritized, PromptSampler, Shuffled
from rl4llm.data.stream import HeldOutPrompts, PromptStream
from rl4llm.data.task import Example, PromptBatch, Task

__all__ = [
    # tasks
    "Task",
    "Example",
    "PromptBatch",
    "AbsoluteDifference",
    "answer_after_thinking",
    "JsonLines",
    # the answer that a response gives
    "ExtractsAnswers",
    "extracted_answer",
    "last_answer",
    # loaders
    "PromptData",
    "PromptStream",
    "HeldOutPrompts",
    # which prompts come next
    "PromptSampler",
    "Shuffled",
    "Prioritized",
    "Filtered",
    "Place",
]
