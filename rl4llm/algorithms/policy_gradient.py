"""`PolicyGradient`: the one loop. Every algorithm of the library is this module with other parts in its slots."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rl4llm.algorithms.building import build_models, build_optimizer, check_learners, check_models
from rl4llm.algorithms.choices import Credit, CriticLearning, Guards, Learning, Loss, Rollout
from rl4llm.algorithms.collect import Collected, collect
from rl4llm.algorithms.composition import Composition
from rl4llm.algorithms.critic_evaluation import critic_evaluators
from rl4llm.algorithms.deal import Minibatch, deal, map_dealt
from rl4llm.algorithms.duals import dual_hooks
from rl4llm.algorithms.evaluation import Evaluation
from rl4llm.algorithms.gather import gather
from rl4llm.algorithms.health import Health
from rl4llm.algorithms.improve import Learner, improve, nth
from rl4llm.algorithms.judge import Passes, judge, with_moving_gates
from rl4llm.algorithms.learn import learn, value_context
from rl4llm.algorithms.losses import policy_losses
from rl4llm.algorithms.meter import Meter, scalar
from rl4llm.algorithms.microbatches import Averaging
from rl4llm.algorithms.mismatch import EngineMonitor
from rl4llm.algorithms.observe import observe_batch
from rl4llm.algorithms.policy_module import PolicyModule
from rl4llm.algorithms.runtime import Runtime
from rl4llm.algorithms.strategy import float32_by_default
from rl4llm.algorithms.survey import survey_once
from rl4llm.algorithms.trust import EngineTrust
from rl4llm.algorithms.watching import show_batch
from rl4llm.batch import RolloutBatch
from rl4llm.borders import NotFiniteError
from rl4llm.checks import UsageError
from rl4llm.critics import ValueContext
from rl4llm.data.task import PromptBatch
from rl4llm.models import ModelSource, Policy
from rl4llm.objectives import TokenMean
from rl4llm.randomness import seed_global

_SHOWN = {"train/reward", "train/accuracy", "train/tokens_per_second"}


class PolicyGradient(PolicyModule):
    """Collect, gather, judge, deal, improve, learn: one rollout batch per training step.

    `trainer.global_step`, `max_steps` and the logged step all count rollout batches. On several devices every step is
    that of one process on the global batch of prompts.

    Args:
        policy: A model name (hub, folder or embedded), a `Pretrained`, a `PreTrainedModel` or a `Policy`.
        rollout: How responses are drawn and scored.
        credit: How scores become advantages.
        loss: How advantages become the policy's loss.
        learning: How the policy steps.
        critic_learning: How the critics step; None: as the policy does.
        evaluation: How the policy is evaluated on held-out prompts.
        guards: When a run that goes wrong stops.
    """

    def __init__(
        self,
        policy: ModelSource,
        rollout: Rollout,
        credit: Credit,
        loss: Loss,
        learning: Learning = Learning(),
        critic_learning: CriticLearning | None = None,
        evaluation: Evaluation = Evaluation(),
        guards: Guards = Guards(),
    ) -> None:
        composition = Composition(rollout, credit, loss)
        critic_learning = critic_learning or CriticLearning(learning.optimizer)
        check_models(policy, composition, critic_learning)
        models = build_models(policy, composition)
        check_learners(models.critics, critic_learning)
        callbacks = critic_evaluators(evaluation, rollout.sampling, models.critics)
        super().__init__(models.policy, rollout.engine, rollout.scoring, rollout.sampling, evaluation, callbacks)
        self.automatic_optimization = False
        self.composition, self.learning, self.critic_learning = composition, learning, critic_learning
        self.critics, self.reference = models.critics, models.reference
        self.replay = None if rollout.replay is None else rollout.replay.build()
        self.dynamic_sampling = None if rollout.dynamic_sampling is None else rollout.dynamic_sampling.build()
        self.duals = nn.ModuleDict({slot: part.build() for slot, part in composition.constrained().items()})
        self.health = Health(guards, self.run_folder)
        self.monitor = EngineMonitor(guards, self.health.warn)
        self.trust = EngineTrust(rollout.trust_log_probs, corrected=credit.correction is not None)
        self.warming_up = self.warmed_up = False  # whether only critics learn now; whether they explain what was asked

    @float32_by_default()
    def training_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Collect, gather, judge, deal, improve, learn, log."""
        started, meter, runtime = time.perf_counter(), Meter(), self.runtime()
        seed_global("step", runtime.seed, runtime.step)
        self.drawn += 1
        self.warming_up = self.trainer.global_step < self.critic_learning.warmup and not self.warmed_up
        collected = gather(runtime, partial(self._collect, runtime, prompts, meter))
        batch = self.health.scored(collected.batch, collected.problems, prompts.task.reward, collected.lost)
        self.tables.trained_on(self, batch, prompts)
        meter.lap("rollout")
        if (chosen := self._select(runtime, batch, prompts)) is None:
            return
        batch, prompts = chosen
        context = self.value_context(runtime, prompts, meter)
        try:
            batch = self._judge(runtime, batch, context, meter)
        except NotFiniteError as error:
            self.health.skip(error.part, f"{error.count} {error.what} are not finite", batch)
            return
        self.health.judged(self._learner_names())
        observe_batch(batch, self.composition, meter, self.policy.tokenizer)
        meter.lap("judge")
        self.warmed_up = self.warmed_up or self.critic_learning.ends_warmup(batch)
        if not self.warming_up:
            self._improve(runtime, self._deal(runtime, batch), meter)
            meter.lap("policy")
        if self.critics is not None and context is not None and not self.critic_learning.first:
            learn(self.critics, batch, context)
            meter.lap("critics")
        self._remember(batch)
        self._log(meter, tokens=int(batch.widths.sum()), seconds=time.perf_counter() - started)
        show_batch(self, batch, prompts, lambda rows: self._pass(runtime, self.policy, rows, "log_probs"))

    def _collect(self, runtime: Runtime, prompts: PromptBatch, meter: Meter) -> Collected:
        """Draw and score this rank's responses."""
        answering, n = self.answering(), self.composition.rollout.responses_per_prompt
        with answering.drawing(runtime, self.policy_version):
            return collect(runtime, answering, prompts, meter, responses_per_prompt=n)

    def _select(
        self, runtime: Runtime, batch: RolloutBatch, prompts: PromptBatch
    ) -> tuple[RolloutBatch, PromptBatch] | None:
        """Keep informative groups and mix in earlier responses; None while more prompts are to be drawn."""
        if self.dynamic_sampling is not None:
            found = self.dynamic_sampling(batch, prompts)
            if found is None:
                return None
            batch, prompts = found[0].to(runtime.device), found[1]
        if self.replay is not None:
            batch = self.replay.mix(batch, runtime.generator("replay"))
        return batch, prompts

    def _judge(self, runtime: Runtime, batch: RolloutBatch, context: ValueContext | None, meter: Meter) -> RolloutBatch:
        compare = partial(self.monitor.observe, version=self.policy_version, meter=meter)
        passes = Passes(
            policy=lambda rows: self._pass(runtime, self.policy, rows, "log_probs"),
            reference=lambda rows, field: self._pass(runtime, self.reference, rows, field),
            version=self.policy_version,
            before_update=self._reads_old_log_probs(),
            compare=compare if self.engine.own_weights else None,
        )
        critics = self.critics if self.critic_learning.first else None
        learning = None if critics is None or context is None else partial(learn, critics, context=context)
        return judge(batch, self.composition, passes, self.critics, context, learn=learning)

    def _deal(self, runtime: Runtime, batch: RolloutBatch) -> Iterator[Minibatch]:
        loss, random, world = self.composition.loss, runtime.generator("deal", "policy"), runtime.world_size
        options = {"whole_groups": loss.objective.whole_groups, "shared": self.policy.shares_prompts}
        return deal(batch, self.learning.updates, loss.averaging(), generator=random, world_size=world, **options)

    def _improve(self, runtime: Runtime, minibatches: Iterator[Minibatch], meter: Meter) -> None:
        duals: dict[str, Any] = dict(self.duals.items())

        def losses(rows: RolloutBatch) -> list[Tensor]:
            version = None if self.trust.choice else self.policy_version
            return policy_losses(self.policy, self.composition, rows, meter, version=version, duals=duals)

        hooks: dict[str, Any] = dual_hooks(duals, runtime, meter, self._next_version)
        hooks |= {"prepare": partial(self._chosen_anew, runtime)} if self.composition.loss.moves else {}
        improve(runtime, self.learner("policy"), minibatches, losses, meter, self.health, counted=True, **hooks)

    def _next_version(self) -> None:
        self.policy_version += 1

    def _chosen_anew(self, runtime: Runtime, minibatch: Minibatch) -> Minibatch:
        """The minibatch under gates that depend on the policy as it moves, at the cost of one more forward pass."""
        present = self._pass(runtime, self.policy, minibatch.rows, "log_probs")
        rows = with_moving_gates(minibatch.rows, self.composition, present)
        return replace(minibatch, rows=rows, counts=self.composition.loss.averaging().counts(rows))

    def _remember(self, batch: RolloutBatch) -> None:
        """Keep fresh rows for later, and renew the reference at its interval."""
        if self.replay is not None:
            self.replay.add(batch)
        interval = self.composition.loss.reference_interval
        if self.reference is not None and interval and not self.trainer.global_step % interval:
            self.reference.take(self.policy)

    def _log(self, meter: Meter, *, tokens: int, seconds: float) -> None:
        meter.add("time/step_seconds", scalar(seconds))
        self.health.observe(meter)
        means = meter.means(self.runtime().gather)
        if not self.engine.own_weights:
            self.trust.observe(means)
        means["train/tokens_per_second"] = torch.tensor(tokens / seconds)
        for name, value in means.items():
            self.log(name, value, prog_bar=name in _SHOWN)

    # --- what the steps are given -----------------------------------------------------------------------------------

    def learner(self, name: str) -> Learner:
        """Return how the model of this name steps: "policy", or a learner of the value source."""
        index = self._learner_names().index(name)
        optimizer, schedule = nth(self.optimizers(), index), nth(self.lr_schedulers(), index)
        if name == "policy":
            averaging = self.composition.loss.averaging()
            return Learner(name, self.policy, optimizer, schedule, self.learning.updates, averaging)
        assert self.critics is not None
        module = self.critics.learners[name]
        return Learner(name, module, optimizer, schedule, self.critic_learning.updates, Averaging((TokenMean(),)))

    def _learner_names(self) -> list[str]:
        return ["policy", *(self.critics.learners if self.critics is not None else ())]

    def _reads_old_log_probs(self) -> bool:
        """Whether the trainer's `old_log_probs` are needed before the update's own passes give them."""
        several = self.learning.updates.steps > 1 and not self.warming_up and self.composition.anchored
        needed = several or self.composition.reads("old_log_probs")
        return needed and not self.trust(self.answering().engine, self.trainer.precision)

    def _pass(self, runtime: Runtime, policy: Policy | None, rows: RolloutBatch, field: str) -> Tensor:
        """A field of `PolicyOutput` for all rows, without gradient, shared out over the ranks."""
        assert policy is not None
        asks = () if field == "log_probs" else (field,)

        def read(piece: RolloutBatch) -> Tensor:
            return getattr(policy(piece, temperature=self.sampling.temperature, asks=asks), field)

        return map_dealt(runtime, read, rows, self.learning.updates.budget(rows), shared=policy.shares_prompts)

    def value_context(self, runtime: Runtime, prompts: PromptBatch, meter: Meter) -> ValueContext | None:
        """Return what the loop lends to the value source for these prompts; None where there is no such source."""
        if self.critics is None:
            return None
        return value_context(
            runtime,
            self.answering(),
            prompts,
            self.learner,
            lambda rows, field: self._pass(runtime, self.policy, rows, field),
            meter,
            self.health,
            budget=self.critic_learning.updates.budget,
            shared=self.critics.shares_prompts,
            counted=self._learner_names()[-1] if self.warming_up else None,
        )

    # --- set-up and state -------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer and schedule for the policy, then one for each learner of the value source."""
        if self.trainer.precision == "16-mixed":
            raise UsageError("precision=16-mixed scales the loss, which clip-norms would see; use bf16-mixed instead.")
        total = self.trainer.estimated_stepping_batches
        learners = {} if self.critics is None else self.critics.learners
        optimizers = [build_optimizer("policy", self.learning.optimizer, self.policy)]
        optimizers += [build_optimizer(name, self.critic_learning.optimizer, one) for name, one in learners.items()]
        updates = [self.learning.updates] + [self.critic_learning.updates] * len(learners)
        schedules = [u.scheduler(o, total) for u, o in zip(updates, optimizers, strict=True)]
        return optimizers, schedules

    def on_train_start(self) -> None:
        """Give the value source a chance to survey the training prompts before the first step."""
        super().on_train_start()
        if self.critics is not None:
            self.critics.prepare(self._survey)

    def _survey(self, *, samples: int, cache: str | None) -> Mapping[int, Sequence[float]]:
        """Survey the policy as it was before training: the reference, where there is one."""
        with self.answering().of(self.reference or self.policy, self.engine_spec) as answering:
            return survey_once(self.trainer, self.runtime(), answering, samples=samples, cache=cache)

    def prompt_priorities(self, uids: Tensor) -> Tensor | None:
        """Return how much each prompt is worth drawing, for prioritized samplers; None where nothing here can say."""
        return None if self.critics is None else self.critics.priorities(uids)

    def check_context(self, prompt_tokens: int) -> None:
        """Raise if the critics cannot read a prompt of so many tokens with a whole response."""
        critics = self.composition.credit.critics
        if critics is not None:
            critics.check_context(prompt_tokens + self.sampling.max_response_tokens)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed and the counters from which all random numbers follow."""
        super().on_save_checkpoint(checkpoint)
        counters = {name: getattr(self, name) for name in ("seed", "drawn", "policy_version", "warmed_up")}
        checkpoint["loop"] = {"counters": counters, "health": self.health.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the seed and the counters of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        for name, value in checkpoint["loop"]["counters"].items():
            setattr(self, name, value)
        self.health.load_state_dict(checkpoint["loop"]["health"])
