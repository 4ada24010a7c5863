"""The loop, and what it is made of."""

from rl4llm.algorithms.choices import Credit, CriticLearning, Guards, Learning, Loss, Rollout
from rl4llm.algorithms.collect import collect
from rl4llm.algorithms.compose import compose
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.critic_evaluation import CriticEvaluator
from rl4llm.algorithms.deal import deal, map_dealt
from rl4llm.algorithms.evaluation import Evaluation, Evaluator
from rl4llm.algorithms.gather import gather
from rl4llm.algorithms.held_out import Sample, answer_held_out, measures
from rl4llm.algorithms.improve import Learner, improve
from rl4llm.algorithms.judge import judge
from rl4llm.algorithms.learn import learn
from rl4llm.algorithms.microbatches import Averaging, accumulate_gradients, cut_by_tokens
from rl4llm.algorithms.policy_gradient import PolicyGradient
from rl4llm.algorithms.runtime import Runtime
from rl4llm.algorithms.sample_tables import SampleTables
from rl4llm.algorithms.supervised import Supervised
from rl4llm.algorithms.truncation import Truncation
from rl4llm.algorithms.updates import Updates
from rl4llm.algorithms.watching import BatchCallback

__all__ = [
    # loops
    "compose",
    "PolicyGradient",
    "Supervised",
    # groups of parts
    "Rollout",
    "Credit",
    "Loss",
    "Learning",
    "CriticLearning",
    # choices
    "Composition",
    "Evaluation",
    "Evaluator",
    "CriticEvaluator",
    "SampleTables",
    "BatchCallback",
    "Sample",
    "answer_held_out",
    "measures",
    "Guards",
    "Truncation",
    "Updates",
    # the steps of the loop
    "Runtime",
    "collect",
    "gather",
    "judge",
    "deal",
    "improve",
    "Learner",
    "learn",
    # cutting
    "accumulate_gradients",
    "Averaging",
    "cut_by_tokens",
    "map_dealt",
]
