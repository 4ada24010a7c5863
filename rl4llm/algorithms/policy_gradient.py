"""`PolicyGradient`: the one loop. Every algorithm of the library is this module with other parts in its slots."""

import time
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.algorithms.acting import Actor
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.evaluation import Evaluation, Evaluator
from rl4llm.algorithms.learner import Learner
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter, observe_batch, scalar
from rl4llm.algorithms.survey import survey_once
from rl4llm.algorithms.updates import Updates
from rl4llm.algorithms.valuing import value_context, with_log_probs, with_values
from rl4llm.batch import RolloutBatch
from rl4llm.checks import UsageError, check_at_least
from rl4llm.corrections import Correction
from rl4llm.critics import ValueSpec
from rl4llm.data.task import PromptBatch
from rl4llm.gates import Gate
from rl4llm.models import Policy, check_model
from rl4llm.objectives import Aggregator, PolicyObjective, SequenceMean, TokenMean
from rl4llm.regularizers import Constrained, KLReward, Regularizer
from rl4llm.replay import ReplaySpec
from rl4llm.rewards import RewardShaping
from rl4llm.rollouts import DynamicSampling, HuggingFaceRollout, RolloutEngine, Sampling


class PolicyGradient(LightningModule):
    """Rollouts, scores, values, advantages, gates, then epochs × minibatches × microbatches of policy and critics.

    `trainer.global_step`, `max_steps` and the logged step all count rollout batches.

    Args:
        policy: Model name: a hub name, a folder, or an embedded model.
        objective: From advantages (or scores) to the policy's loss.
        aggregator: From losses to a scalar.
        advantage: From rewards and values to advantages; None for objectives that compare scores themselves.
        critics: Where values come from; None for critic-free methods.
        whitening: Normalizes the advantages of the rollout batch, before any gate.
        correction: Weighs the advantages by how far engine and trainer disagree.
        gate: Tokens from which the objective learns; None: all.
        regularizers: Penalties beside the objective, by slot name.
        kl_reward: Divergence from the reference policy, in the reward.
        length_penalty: Length, in the reward.
        sampling: How responses are drawn; its temperature is that of the log-probs.
        responses_per_prompt: n.
        dynamic_sampling: Draw prompts until there are enough groups with unequal scores.
        replay: Earlier responses beside the fresh ones.
        updates: Optimizer steps of the policy on one rollout batch.
        critic_updates: Optimizer steps of each critic on its part of one rollout batch.
        optimizer: Of the policy.
        critic_optimizer: Of each critic.
        learn_critics_first: Train the critics before their values are read, rather than after.
        critic_warmup: Rollout batches on which only the critics learn.
        trust_rollout_log_probs: Take the engine's log-probs as `old_log_probs` instead of computing them again.
        reference_interval: Rollout batches after which the reference becomes the policy as it is; None: never.
        engine: What draws responses.
        evaluation: How the policy is judged on held-out prompts.
    """

    def __init__(
        self,
        policy: str,
        *,
        objective: PolicyObjective,
        optimizer: OptimizerCallable = lambda params: AdamW(params, lr=2e-4, weight_decay=0.0),
        advantage: AdvantageEstimator | None = None,
        critics: ValueSpec | None = None,
        critic_optimizer: OptimizerCallable | None = None,
        aggregator: Aggregator = SequenceMean(),
        whitening: Whiten | None = None,
        correction: Correction | None = None,
        gate: Gate | None = None,
        regularizers: Mapping[str, Regularizer | None] = MappingProxyType({}),
        kl_reward: KLReward | None = None,
        length_penalty: RewardShaping | None = None,
        responses_per_prompt: int = 8,
        sampling: Sampling = Sampling(),
        dynamic_sampling: DynamicSampling | None = None,
        replay: ReplaySpec | None = None,
        updates: Updates = Updates(),
        critic_updates: Updates = Updates(),
        learn_critics_first: bool = False,
        critic_warmup: int = 0,
        trust_rollout_log_probs: bool = False,
        reference_interval: int | None = None,
        engine: RolloutEngine = HuggingFaceRollout(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.composition = Composition(
            objective=objective,
            aggregator=aggregator,
            advantage=advantage,
            critics=critics,
            whitening=whitening,
            correction=correction,
            gate=gate,
            regularizers=MappingProxyType(dict(regularizers)),
            kl_reward=kl_reward,
            length_penalty=length_penalty,
            dynamic_sampling=dynamic_sampling,
            replay=replay,
        )
        self.sampling, self.actor = sampling, Actor(engine, sampling, responses_per_prompt)
        self.updates, self.critic_updates = updates, critic_updates
        self.optimizer, self.critic_optimizer = optimizer, critic_optimizer or optimizer
        self.learn_critics_first, self.critic_warmup = learn_critics_first, critic_warmup
        self.trust_rollout_log_probs, self.reference_interval = trust_rollout_log_probs, reference_interval
        self._check(policy)
        self._build(policy)
        self.evaluator = Evaluator(evaluation, sampling, engine)
        self._restored: dict[str, Tensor] = {}
        self.warming_up = False

    def _check(self, policy: str) -> None:
        composition, n = self.composition, self.actor.responses_per_prompt
        check_at_least("PolicyGradient", 1, responses_per_prompt=n, reference_interval=self.reference_interval)
        check_at_least("PolicyGradient", 0, critic_warmup=self.critic_warmup)
        self.sampling.check_trainable()
        composition.check(responses_per_prompt=n, engine=self.actor.engine)
        check_model(policy)
        if composition.critics is not None:
            composition.critics.check(policy, n)
            if self.learn_critics_first and composition.critics.sees_scores:
                raise UsageError(
                    f"learn_critics_first=true would show critics={type(composition.critics).__name__} the scores that "
                    "its values are compared with; set --model.learn_critics_first=false."
                )
        if self.trust_rollout_log_probs and composition.correction is not None:
            raise UsageError(
                f"correction={type(composition.correction).__name__} compares the trainer's log-probs with the "
                "engine's, and trust_rollout_log_probs=true computes none; set one of the two to false or null."
            )

    def _build(self, policy: str) -> None:
        composition = self.composition
        self.policy = Policy.load(policy)
        self.critics = None if composition.critics is None else composition.critics.build(policy, self.policy)
        if self.critic_warmup and not (self.critics and self.critics.learners):
            raise UsageError(
                f"critic_warmup={self.critic_warmup}, but there are no critics that learn by gradient; "
                "set --model.critic_warmup=0."
            )
        referred = composition.needs("ref_log_probs") or composition.needs("ref_logsumexp")
        self.reference = Policy.load(policy).requires_grad_(False) if referred else None
        self.replay = None if composition.replay is None else composition.replay.build()
        self.collector = None if composition.dynamic_sampling is None else composition.dynamic_sampling.build()
        regularizers = composition.active_regularizers().items()
        self.duals = torch.nn.ModuleDict({s: p.build() for s, p in regularizers if isinstance(p, Constrained)})

    # --- set-up -----------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer and schedule for the policy, then one for each learner of the value source."""
        if self.trainer.precision == "16-mixed":
            raise UsageError("precision=16-mixed scales the loss, which clip-norms would see; use bf16-mixed instead.")
        total = self.trainer.estimated_stepping_batches
        learners = {} if self.critics is None else self.critics.learners
        optimizers = [self.optimizer(self.policy.parameters())]
        optimizers += [self.critic_optimizer(module.parameters()) for module in learners.values()]
        updates = [self.updates] + [self.critic_updates] * len(learners)
        schedules = [u.scheduler(o, total) for u, o in zip(updates, optimizers, strict=True)]
        return optimizers, schedules

    def on_fit_start(self) -> None:
        """Explicit random generators: one for sampling on the device, one for the order of rows."""
        seed = torch.initial_seed() + self.global_rank
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.shuffle = torch.Generator().manual_seed(seed)
        for name, state in self._restored.items():
            getattr(self, name).set_state(state)

    def on_train_start(self) -> None:
        """Let the value source look at the training prompts."""
        if self.critics is not None:
            self.critics.prepare(partial(survey_once, self))

    def prompt_priorities(self, uids: Tensor) -> Tensor | None:
        """How much each prompt is worth drawing, for prioritized samplers; None where nothing here can say."""
        return None if self.critics is None else self.critics.priorities(uids)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random states travel with the weights."""
        if hasattr(self, "generator"):
            checkpoint["generators"] = {name: getattr(self, name).get_state() for name in ("generator", "shuffle")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random states are set once the generators exist."""
        self._restored = checkpoint.get("generators", {})

    def sum_over_ranks(self, x: Tensor) -> Tensor:
        """The one reduction: every normalizer and every mean goes through it."""
        return self.trainer.strategy.reduce(x, reduce_op="sum") if self.trainer.world_size > 1 else x

    # --- one rollout batch ------------------------------------------------------------------------------------------

    def training_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Act, judge, learn, log."""
        started, meter = time.perf_counter(), Meter()
        self.warming_up = self.trainer.global_step < self.critic_warmup
        fresh = self.actor.act(self.policy, prompts, self.generator, meter)
        acted = time.perf_counter()
        if self.collector is not None:
            drawn = self.collector(fresh, prompts)
            if drawn is None:
                return
            fresh, prompts = drawn
        batch = with_log_probs(self, fresh if self.replay is None else self.replay.mix(fresh, self.shuffle))
        batch = with_values(self, self.composition.with_rewards(batch), prompts, meter)
        self._improve(self.composition.with_gates(batch), prompts, meter)
        if self.replay is not None:
            self.replay.add(batch)
        if (
            self.reference is not None
            and self.reference_interval
            and not self.trainer.global_step % self.reference_interval
        ):
            self.reference.model.load_state_dict(self.policy.model.state_dict())
        seconds = time.perf_counter() - started
        meter.add("time/rollout_seconds", scalar(acted - started))
        meter.add("time/step_seconds", scalar(seconds))
        self._log(meter, tokens=int(batch.widths.sum()), seconds=seconds)

    def learner(self, name: str, index: int, module: torch.nn.Module) -> Learner:
        """What steps the model of the index-th optimizer: 0 is the policy's, then come the critics'."""
        optimizer, schedule = _nth(self.optimizers(), index), _nth(self.lr_schedulers(), index)
        if index:
            return Learner(name, module, optimizer, schedule, self.critic_updates, TokenMean())
        composition = self.composition
        whole_groups = composition.objective.whole_groups
        return Learner(name, module, optimizer, schedule, self.updates, composition.aggregator, whole_groups)

    def _improve(self, batch: RolloutBatch, prompts: PromptBatch, meter: Meter) -> None:
        observe_batch(batch, self.composition, meter)
        on_policy = self.updates.steps == 1 and not self.trust_rollout_log_probs
        duals: dict[str, Any] = dict(self.duals.items())
        options = {"temperature": self.sampling.temperature, "on_policy": on_policy, "duals": duals}

        def losses(rows: RolloutBatch) -> list[Tensor]:
            return policy_losses(self.policy, self.composition, rows, meter, **options)  # type: ignore[arg-type]

        def adapt() -> None:
            for slot, dual in duals.items():
                dual.step(self.sum_over_ranks)
                meter.add(f"penalty/{slot}_multiplier", dual.multiplier.reshape(1))

        if not self.warming_up:
            learner = self.learner("policy", 0, self.policy)
            learner.minimize(self, batch, losses, meter, counted=True, after_step=adapt)
        if self.critics is not None and not self.learn_critics_first:
            self.critics.learn(batch, value_context(self, prompts, meter))

    def _log(self, meter: Meter, *, tokens: int, seconds: float) -> None:
        means = meter.means(self.sum_over_ranks, self.device)
        means["train/tokens_per_second"] = torch.tensor(tokens / seconds)
        shown = {"train/reward", "train/accuracy", "train/tokens_per_second"}
        for name, value in means.items():
            self.log(name, value, prog_bar=name in shown)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.evaluator.restart()

    def validation_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Judge the policy on held-out prompts."""
        self.evaluator.step(self, self.policy, prompts, "val")

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.evaluator.restart()

    def test_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Judge the policy on test prompts."""
        self.evaluator.step(self, self.policy, prompts, "test")


def _nth(things: Any, index: int) -> Any:
    """Lightning gives one optimizer or schedule alone and several as a list."""
    return things[index] if isinstance(things, list) else things
