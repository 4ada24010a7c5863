"""Evaluating any policy on tasks: what is evaluated, how, and what is written."""

from rl4llm.evaluation.command import chosen_sampling, chosen_tasks, output_folder, publish, run_tool
from rl4llm.evaluation.generations import Format, chosen_format, write_generations
from rl4llm.evaluation.report import Number, as_json, as_markdown, as_text, numbers
from rl4llm.evaluation.run import Evaluated, HeldOut, check_tasks, chosen_ks, evaluate_policy
from rl4llm.evaluation.source import Source, find_source

__all__ = [
    # what is evaluated
    "Source",
    "find_source",
    "chosen_tasks",
    "chosen_sampling",
    # how
    "HeldOut",
    "evaluate_policy",
    "Evaluated",
    "check_tasks",
    "chosen_ks",
    # what is written
    "output_folder",
    "publish",
    "Format",
    "chosen_format",
    "numbers",
    "Number",
    "as_json",
    "as_markdown",
    "as_text",
    "write_generations",
    # the command
    "run_tool",
]
