"""Tasks (prompts with a verifier), the loaders that yield their prompts, and which of them come next."""

from rl4llm.data.absolute_difference import AbsoluteDifference, answer_after_thinking
from rl4llm.data.extraction import ExtractsAnswers, extracted_answer, last_answer
from rl4llm.data.hugging_face import HuggingFaceDataset
from rl4llm.data.json_lines import JsonLines
from rl4llm.data.math_sets import AIME, AMC, GSM8K, MATH500, DAPOMath17k, DeepMath103K, OlympiadBench, PublishedSet
from rl4llm.data.module import PromptData
from rl4llm.data.parquet import Parquet
from rl4llm.data.prompt_format import PromptFormat
from rl4llm.data.prompts import Chat
from rl4llm.data.reasoning_gym import GymAnswer, ReasoningGym, ReasoningGymScore
from rl4llm.data.record_task import RecordTask
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
    "RecordTask",
    "JsonLines",
    "Parquet",
    "HuggingFaceDataset",
    "PublishedSet",
    "GSM8K",
    "MATH500",
    "DeepMath103K",
    "DAPOMath17k",
    "AIME",
    "AMC",
    "OlympiadBench",
    "ReasoningGym",
    "GymAnswer",
    "ReasoningGymScore",
    # how a prompt is written
    "PromptFormat",
    "Chat",
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
