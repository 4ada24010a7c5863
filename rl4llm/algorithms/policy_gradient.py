"""`PolicyGradient`: the one loop. Every algorithm of the library is this module with other parts in its slots."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rl4llm.advantages import AdvantageEstimator, Whiten
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.evaluation import Evaluation, Evaluator, mean_traits
from rl4llm.algorithms.learner import Learner
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter, observe_batch, scalar
from rl4llm.algorithms.microbatches import map_microbatches
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch, place_scores
from rl4llm.checks import UsageError, check_at_least
from rl4llm.critics import ValueContext, ValueSpec
from rl4llm.data.task import PromptBatch
from rl4llm.gates import Gate
from rl4llm.models import Policy, check_model
from rl4llm.objectives import Aggregator, PolicyObjective, SequenceMean, TokenMean
from rl4llm.regularizers import KLReward, Regularizer
from rl4llm.rollouts import HuggingFaceRollout, RolloutEngine, Sampling, decode_responses


class PolicyGradient(LightningModule):
    """Rollouts, scores, values, advantages, gates, then epochs × minibatches × microbatches of policy and critics.

    `trainer.global_step`, `max_steps` and the logged step all count rollout batches.

    Args:
        policy: Model name: a hub name, a folder, or an embedded model.
        advantage: From rewards and values to advantages.
        objective: From advantages to the policy's loss.
        aggregator: From losses to a scalar.
        critics: Where values come from; None for critic-free methods.
        whitening: Normalizes the advantages of the rollout batch, before any gate.
        gate: Tokens from which the objective learns; None: all.
        regularizers: Penalties beside the objective, by slot name.
        kl_reward: Divergence from the reference policy, in the reward.
        sampling: How responses are drawn; its temperature is that of the log-probs.
        responses_per_prompt: n.
        updates: Optimizer steps of the policy on one rollout batch.
        critic_updates: Optimizer steps of each critic on its part of one rollout batch.
        optimizer: Of the policy.
        critic_optimizer: Of each critic.
        learn_critics_first: Train the critics before their values are read, rather than after.
        critic_warmup: Rollout batches on which only the critics learn.
        trust_rollout_log_probs: Take the engine's log-probs as `old_log_probs` instead of computing them again.
        engine: What draws responses.
        evaluation: How the policy is judged on held-out prompts.
    """

    def __init__(
        self,
        policy: str,
        *,
        advantage: AdvantageEstimator,
        objective: PolicyObjective,
        optimizer: OptimizerCallable,
        critics: ValueSpec | None = None,
        critic_optimizer: OptimizerCallable | None = None,
        aggregator: Aggregator = SequenceMean(),
        whitening: Whiten | None = None,
        gate: Gate | None = None,
        regularizers: Mapping[str, Regularizer | None] = MappingProxyType({}),
        kl_reward: KLReward | None = None,
        responses_per_prompt: int = 8,
        sampling: Sampling = Sampling(),
        updates: Updates = Updates(),
        critic_updates: Updates = Updates(),
        learn_critics_first: bool = False,
        critic_warmup: int = 0,
        trust_rollout_log_probs: bool = False,
        engine: RolloutEngine = HuggingFaceRollout(),
        evaluation: Evaluation = Evaluation(),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.composition = Composition(
            advantage, objective, aggregator, whitening, gate, MappingProxyType(dict(regularizers)), kl_reward
        )
        self.sampling, self.responses_per_prompt = sampling, responses_per_prompt
        self.updates, self.critic_updates = updates, critic_updates
        self.optimizer, self.critic_optimizer = optimizer, critic_optimizer or optimizer
        self.learn_critics_first, self.critic_warmup = learn_critics_first, critic_warmup
        self.trust_rollout_log_probs, self.engine = trust_rollout_log_probs, engine
        self._check(policy, critics)
        self.policy = Policy.load(policy)
        self.critics = None if critics is None else critics.build(policy)
        self.reference = Policy.load(policy).requires_grad_(False) if self.composition.needs("ref_log_probs") else None
        self.evaluator = Evaluator(evaluation, sampling, engine)
        self._warned: set[str] = set()
        self._restored: dict[str, Tensor] = {}
        self._warming_up = False

    def _check(self, policy: str, critics: ValueSpec | None) -> None:
        check_at_least("PolicyGradient", 1, responses_per_prompt=self.responses_per_prompt)
        check_at_least("PolicyGradient", 0, critic_warmup=self.critic_warmup)
        self.sampling.check_trainable()
        self.composition.check(critics=None if critics is None else 1, responses_per_prompt=self.responses_per_prompt)
        check_model(policy)
        if critics is not None:
            critics.check(policy, self.responses_per_prompt)
        elif self.critic_warmup:
            raise UsageError(
                f"critic_warmup={self.critic_warmup}, but there are no critics; set --model.critic_warmup=0."
            )

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
        self._warming_up = self.trainer.global_step < self.critic_warmup
        batch = self._rollout(prompts, meter)
        acted = time.perf_counter()
        batch = self._with_log_probs(batch)
        if self.composition.kl_reward is not None:
            batch = batch.replace(rewards=self.composition.kl_reward(batch))
        batch = self._with_values(batch, meter)
        batch = self.composition.with_gates(batch)
        self._improve(batch, meter)
        seconds = time.perf_counter() - started
        meter.add("time/rollout_seconds", scalar(acted - started))
        meter.add("time/step_seconds", scalar(seconds))
        self._log(meter, tokens=int(batch.widths.sum()), seconds=seconds)

    @torch.no_grad()
    def _rollout(self, prompts: PromptBatch, meter: Meter) -> RolloutBatch:
        n, sampling = self.responses_per_prompt, self.sampling
        batch = self.engine(self.policy, prompts, responses_per_prompt=n, sampling=sampling, generator=self.generator)
        texts = decode_responses(self.policy, batch)
        scores, problems = prompts.score(texts, batch.group_ids.tolist())
        scores = scores.to(batch.scores.device)
        self._warn_unscorable(prompts, problems, int(scores.isnan().sum()), len(batch))
        scored = ~scores.isnan()
        meter.add("train/reward", scores, scored)
        meter.add("train/accuracy", (scores > 0).float(), scored)
        meter.add("train/unscorable_share", scores.isnan().float())
        meter.add("train/truncated_share", batch.truncated.float())
        meter.add("train/response_length", batch.lengths.float())
        if batch.entropies is not None:
            meter.add("policy/entropy", batch.entropies, batch.response_mask)
        for name, value in mean_traits(prompts, texts).items():
            meter.add(f"train/{name}", scalar(value))
        batch = batch.replace(scores=scores)
        return batch.replace(
            response_mask=batch.scored_mask, rewards=place_scores(scores, batch.response_mask).to(batch.rewards.dtype)
        )

    def _warn_unscorable(self, prompts: PromptBatch, problems: list[str], count: int, total: int) -> None:
        for problem in [p for p in problems if p not in self._warned]:
            self._warned.add(problem)
            name = getattr(prompts.task.reward, "__name__", type(prompts.task.reward).__name__)
            rank_zero_warn(
                f"reward '{name}' could not score {count} of {total} responses ({problem}); they are left out of "
                "every statistic and counted in train/unscorable_share. Mend the reward if that is not meant."
            )

    @torch.no_grad()
    def _with_log_probs(self, batch: RolloutBatch) -> RolloutBatch:
        tokens, temperature = self.updates.microbatch_tokens, self.sampling.temperature
        if not self.trust_rollout_log_probs and (self.updates.steps > 1 or self.composition.kl_reward is not None):
            old = map_microbatches(lambda rows: self.policy(rows, temperature=temperature).log_probs, batch, tokens)
            batch = batch.replace(old_log_probs=old)
        if self.reference is not None:
            reference = self.reference
            ref = map_microbatches(lambda rows: reference(rows, temperature=temperature).log_probs, batch, tokens)
            batch = batch.replace(ref_log_probs=ref)
        return batch

    def _with_values(self, batch: RolloutBatch, meter: Meter) -> RolloutBatch:
        if self.critics is None:
            return self.composition.with_advantages(batch)
        context = self._context(meter)
        batch = self.composition.with_advantages(self.critics.values(batch, context))
        if self.learn_critics_first:
            self.critics.learn(batch, context)
            batch = self.composition.with_advantages(self.critics.values(batch, context))
        return batch

    def _context(self, meter: Meter) -> ValueContext:
        assert self.critics is not None
        names = list(self.critics.learners)

        def minimize(name: str, rows: RolloutBatch, loss: Any) -> None:
            def losses(piece: RolloutBatch) -> list[Tensor]:
                per_token = loss(piece)
                meter.add(f"{name}/value_loss", per_token, piece.response_mask)
                return [per_token]

            learner = self._learner(name, 1 + names.index(name), self.critics.learners[name])  # type: ignore[union-attr]
            counted = self._warming_up and name == names[-1]
            learner.minimize(self, rows, losses, meter, counted=counted)

        tokens = self.critic_updates.microbatch_tokens
        return ValueContext(map=lambda f, rows: map_microbatches(f, rows, tokens), minimize=minimize)

    def _learner(self, name: str, index: int, module: torch.nn.Module) -> Learner:
        optimizer, schedule = _nth(self.optimizers(), index), _nth(self.lr_schedulers(), index)
        updates = self.critic_updates if index else self.updates
        aggregator = TokenMean() if index else self.composition.aggregator
        return Learner(name, module, optimizer, schedule, updates, aggregator)

    def _improve(self, batch: RolloutBatch, meter: Meter) -> None:
        observe_batch(batch, self.composition, meter)
        on_policy, temperature = self.updates.steps == 1, self.sampling.temperature

        def losses(rows: RolloutBatch) -> list[Tensor]:
            return policy_losses(
                self.policy, self.composition, rows, meter, temperature=temperature, on_policy=on_policy
            )

        if not self._warming_up:
            learner = self._learner("policy", 0, self.policy)
            learner.minimize(self, batch, losses, meter, counted=True)
        if self.critics is not None and not self.learn_critics_first:
            self.critics.learn(batch, self._context(meter))

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
