"""`compose`: all slots of an algorithm in one flat signature, in the order of the data flow."""

from collections.abc import Mapping

from lightning.pytorch.cli import OptimizerCallable
from torch.optim import AdamW

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.algorithms.choices import Credit, CriticLearning, Guards, Learning, Loss, Rollout
from rl4llm.algorithms.evaluation import Evaluation
from rl4llm.algorithms.policy_gradient import PolicyGradient
from rl4llm.algorithms.truncation import Truncation
from rl4llm.algorithms.updates import Updates
from rl4llm.corrections import Correction
from rl4llm.critics import ValueSpec
from rl4llm.gates import Gate
from rl4llm.models import ModelSource
from rl4llm.objectives import Aggregator, PolicyObjective, SequenceMean
from rl4llm.regularizers import KLReward, Regularizer
from rl4llm.replay import ReplaySpec
from rl4llm.rewards import RewardShaping, Scoring
from rl4llm.rollouts import DynamicSampling, EngineSpec, HuggingFaceRollout, Sampling


def compose(
    policy: ModelSource,
    *,
    engine: EngineSpec = HuggingFaceRollout(),
    sampling: Sampling = Sampling(),
    responses_per_prompt: int = 8,
    scoring: Scoring = Scoring(),
    dynamic_sampling: DynamicSampling | None = None,
    replay: ReplaySpec | None = None,
    trust_rollout_log_probs: bool | None = None,
    length_penalty: RewardShaping | None = None,
    kl_reward: KLReward | None = None,
    truncation: Truncation = "terminal",
    critics: ValueSpec | None = None,
    advantage: AdvantageEstimator | None = None,
    whitening: Whiten | None = None,
    correction: Correction | None = None,
    gate: Gate | None = None,
    objective: PolicyObjective,
    regularizers: Mapping[str, Regularizer | None] = {},
    aggregator: Aggregator = SequenceMean(),
    updates: Updates = Updates(),
    optimizer: OptimizerCallable = lambda params: AdamW(params, lr=2e-5, weight_decay=0.0),
    critic_updates: Updates = Updates(),
    critic_optimizer: OptimizerCallable = lambda params: AdamW(params, lr=5e-4, weight_decay=0.0),
    critic_warmup: int = 0,
    critic_warmup_until: float | None = None,
    learn_critics_first: bool = False,
    reference_interval: int | None = None,
    evaluation: Evaluation = Evaluation(),
    guards: Guards = Guards(),
) -> PolicyGradient:
    """Build the loop of an algorithm from its parts.

    Recipes name the slots that make their algorithm and pass on the others, which all are flags on the command line.
    By default both optimizers are AdamW: the policy's at 2e-5, the critics' at 5e-4.

    Args:
        policy: Model name (hub, folder or embedded), or a `Pretrained` with dtype, attention and the like.
        engine: What draws the responses.
        sampling: Temperature and length limit of responses; the temperature is that of the log-probs too.
        responses_per_prompt: n, responses per prompt.
        scoring: How the reward is run: worker processes and time limits.
        dynamic_sampling: Draws prompts until enough groups have unequal scores; null takes them as they come.
        replay: Earlier responses beside the fresh ones; null is strictly fresh.
        trust_rollout_log_probs: Take the engine's log-probs as the old ones instead of computing them again; null: if
            it samples with the policy's own weights in float32.
        length_penalty: Charge on length, in the reward.
        kl_reward: Charge on the divergence from the reference policy, in the reward.
        truncation: What responses count for that the length limit cut off: terminal (they end there), bootstrap (with
            the critics' value at the cut), drop (nothing learns from them), actor_only (only the critics do).
        critics: Where values come from; null for critic-free methods.
        advantage: From rewards (and values) to advantages.
        whitening: Normalizes the advantages of the whole rollout batch, before the gate.
        correction: Weighs the advantages by how far the engine and the trainer disagree.
        gate: Tokens from which the policy learns; null keeps all of them.
        objective: From advantages (or scores) to the policy's loss.
        regularizers: Further penalties beside the objective, by name.
        aggregator: From losses of tokens to a scalar.
        updates: Optimizer steps of the policy on one rollout batch.
        optimizer: Optimizer of the policy.
        critic_updates: Optimizer steps of each critic on its part of one rollout batch.
        critic_optimizer: Optimizer of each critic.
        critic_warmup: Rollout batches on which only the critics learn.
        critic_warmup_until: Explained variance at which that ends sooner; null: it lasts as long.
        learn_critics_first: Train the critics before their values are read, rather than after.
        reference_interval: Rollout batches after which the reference becomes the policy as it is; null: never.
        evaluation: How the policy is evaluated on held-out prompts.
        guards: When a run that goes wrong stops.
    """
    return PolicyGradient(
        policy,
        Rollout(engine, sampling, responses_per_prompt, scoring, dynamic_sampling, replay, trust_rollout_log_probs),
        Credit(advantage, critics, whitening, correction, length_penalty, kl_reward, truncation),
        Loss(objective, gate, regularizers, aggregator, reference_interval),
        Learning(optimizer, updates),
        CriticLearning(
            critic_optimizer, critic_updates, learn_critics_first, critic_warmup, warmup_until=critic_warmup_until
        ),
        evaluation,
        guards,
    )
