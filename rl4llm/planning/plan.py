"""`plan`: the memory of a run on each device, from models that have shapes and no weights."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from rl4llm.algorithms.policy_gradient import PolicyGradient
from rl4llm.algorithms.updates import Updates
from rl4llm.batch import RolloutBatch
from rl4llm.models import Policy, decoder_layers
from rl4llm.planning.bytes import ModelBytes, Phase, Plan
from rl4llm.planning.passes import (
    autocast,
    backpropagate,
    longest_batch,
    read_only,
    sample_responses,
    step,
    widest_pieces,
)
from rl4llm.planning.setting import Setting
from rl4llm.planning.watch import MemoryWatch, emptied
from rl4llm.rollouts import HuggingFaceRollout, Sampling

_BUCKET = 2**27  # bytes of gradients that DDP sums at once


def plan(module: PolicyGradient, setting: Setting) -> Plan:
    """Return the memory that a run of this module will take on each device.

    Every prompt and response counts as being as long as it may be. The passes of a rollout batch are run on tensors
    that have shapes and no content, so that what is counted is what the architecture, its attention kernel, gradient
    checkpointing, adapters, shared prompts and the budget of microbatches really make.

    Args:
        module: Built inside [without_weights][rl4llm.models.outline.without_weights]; it cannot be trained afterwards.
        setting: Devices, precision and sizes.
    """
    return _Planner(module, setting).plan()


class _Planner:
    def __init__(self, module: PolicyGradient, setting: Setting) -> None:
        self.module, self.setting = module, setting
        if setting.precision == "bf16-true":
            module.to(torch.bfloat16)
        config = module.policy.model.config.get_text_config()
        self.watch = MemoryWatch(getattr(config, "vocab_size", None))
        emptied(module, self.watch)
        learners = {} if module.critics is None else dict(module.critics.learners)
        self.critics: dict[str, Any] = learners
        self.steps = {
            "policy": self._step(module.policy, module.learning.optimizer),
            **{name: self._step(one, module.critic_learning.optimizer) for name, one in learners.items()},
        }
        rollout = module.composition.rollout
        copies, response = rollout.responses_per_prompt, rollout.sampling.max_response_tokens
        self.batch = longest_batch(setting.prompts_per_step, copies, setting.prompt_tokens, response)
        self.context = autocast(setting.precision)
        self.notes: list[str] = []
        self.gradients: dict[str, int] = {}

    def plan(self) -> Plan:
        models, batch = self._models(), self._batch_bytes()
        if self.setting.sharded:
            self._shard()
        phases = [*self._drawing(), *self._reading(), *self._learning()]
        return Plan(tuple(models), batch, tuple(phases), self.setting, tuple(self.notes))

    # --- what stays -------------------------------------------------------------------------------------------------

    def _step(self, module: nn.Module, make: Callable[[Any], Any]) -> tuple[int, int]:
        states, transient = step(self.watch, module, make, foreach=not self.setting.on_cpu)
        return states // self.setting.shards, transient // self.setting.shards

    def _models(self) -> list[ModelBytes]:
        """The policy, the reference, and the critics; a weight that two of them share is counted once."""
        held: dict[str, nn.Module | None] = {"policy": self.module.policy, **self.critics}
        held["reference"] = self.module.reference
        if self.module.critics is not None:
            held["other values"] = self.module.critics
        seen: set[int] = set()
        found = []
        for name, model in held.items():
            own = [] if model is None else [p for p in _tensors(model) if id(p) not in seen]
            seen |= {id(p) for p in own}
            if own:
                found.append(self._bytes(name, own))
        self.gradients = {one.name: one.gradients for one in found}
        return found

    def _bytes(self, name: str, tensors: list[Tensor]) -> ModelBytes:
        parameters = [p for p in tensors if isinstance(p, nn.Parameter)]
        trained, shards = [p for p in parameters if p.requires_grad and name in self.steps], self.setting.shards
        states, _ = self.steps.get(name, (0, 0))
        count, learned = (sum(p.numel() for p in some) for some in (parameters, trained))
        return ModelBytes(name, count, learned, _size(tensors) // shards, _size(trained) // shards, states)

    def _batch_bytes(self) -> int:
        """The rollout batch, whole on every device, and the minibatches cut from it for every epoch."""
        fields = [x for x in vars(self.batch).values() if isinstance(x, Tensor)]
        once = sum(x.numel() * x.element_size() for x in fields)
        per_token = self.batch.response_ids.numel() * 4
        judged = per_token * (4 + len(self.critics) + len(self.module.composition.loss.gates()) // 2)
        copies = max(self.module.learning.updates.epochs, self.module.critic_learning.updates.epochs)
        return (once + judged) * (1 + copies)

    # --- sharding ---------------------------------------------------------------------------------------------------

    def _shard(self) -> None:
        """Let models run as sharded ones do, which share no prompts and make whole logits, in the dtype they gather."""
        backbones = [critic.backbone for critic in self.critics.values() if hasattr(critic, "backbone")]
        policies = [policy.model for policy in (self.module.policy, self.module.reference) if policy is not None]
        for model in (*policies, *backbones):
            if self.setting.precision == "bf16-mixed":
                emptied(model, self.watch, torch.bfloat16)
            model.__class__ = type(type(model).__name__, (FSDPModule, type(model)), {})
        self.context = autocast("32-true")

    def _gathered(self, model: PreTrainedModel, *, whole: bool = False) -> int:
        """Bytes of the weights that a sharded model holds whole: all, or one layer, the next one and all but layers."""
        if not self.setting.sharded:
            return 0
        layers = [_size(list(layer.parameters())) for layer in decoder_layers(model)]
        everything = _size(list(model.parameters()))
        return everything if whole else everything - sum(layers) + 2 * max(layers)

    # --- phases -----------------------------------------------------------------------------------------------------

    def _drawing(self) -> list[Phase]:
        """Responses of a training step, and those of an evaluation."""
        rollout, setting = self.module.composition.rollout, self.setting
        evaluator: Any = self.module.callbacks[0]
        evaluation = evaluator.evaluation
        phases = [self._drawn("rollout", setting.prompts_per_step, rollout.responses_per_prompt, rollout.sampling)]
        if setting.held_out_per_step:
            held_out = (setting.held_out_per_step, evaluation.samples, evaluation.sampling(rollout.sampling))
            phases.append(self._drawn("evaluation", *held_out))
        return phases

    def _drawn(self, name: str, prompts: int, copies: int, sampling: Sampling) -> Phase:
        engine, policy = self.module.engine_spec, self.module.policy
        own = -(-prompts // self.setting.world_size)
        if not isinstance(engine, HuggingFaceRollout):
            return Phase(name, 0, weights=self._engine_bytes(engine))
        side_by_side = min(own, max(1, engine.rows_at_once // copies))
        before = self.watch.now
        with self.context():
            cache = sample_responses(
                self.watch,
                policy,
                sampling,
                prompts=side_by_side,
                copies=min(copies, engine.rows_at_once),
                prompt_tokens=self.setting.prompt_tokens,
                top=engine.top_log_probs,
            )
        weights = self._gathered(policy.model, whole=True)
        taken, logits = self.watch.most - before, self.watch.logits_at_most
        uniforms = side_by_side * copies * sampling.max_response_tokens * 24  # numbers drawn from, and what is drawn
        return Phase(name, taken - cache - logits + uniforms, logits, cache=cache, weights=weights)

    def _engine_bytes(self, engine: Any) -> int:
        """What an engine with weights of its own holds, as far as it says so."""
        weights, cache = _size(list(self.module.policy.model.parameters())), getattr(engine, "cache_gib", None)
        if getattr(engine, "dtype", None) in ("bfloat16", "float16"):
            weights //= 2 if self.setting.precision != "bf16-true" else 1
        share = getattr(engine, "memory", None)
        if cache is None and share is not None and self.setting.memory is not None and not self.setting.on_cpu:
            return int(share * self.setting.memory)
        self.notes.append(f"{type(engine).__name__}: beside weights and cache, what the engine takes is not counted")
        return weights + int((1 if cache is None else cache) * 2**30)

    def _reading(self) -> list[Phase]:
        """Passes without gradient: log-probs of the policy and the reference, values of the critics."""
        phases = []
        policies = {"log-probs": self.module.policy, "reference": self.module.reference}
        for name, policy in policies.items():
            if policy is not None:
                rows = self._pieces(self.module.learning.updates, policy)[0]
                read_only(self.watch, partial(policy, rows, temperature=self._temperature), self.context())
                phases.append(self._phase(name, weights=self._gathered(policy.model)))
        for name, critic in self.critics.items():
            if hasattr(critic, "readings"):
                rows = self._pieces(self.module.critic_learning.updates, critic)[0]
                read_only(self.watch, partial(critic.readings, rows), self.context())
                phases.append(self._phase(f"values of {name}", weights=self._gathered(critic.backbone)))
        return phases

    def _learning(self) -> list[Phase]:
        """Updates of the policy and of every critic."""
        policy, asks = self.module.policy, self.module.composition.asks()

        def policy_loss(rows: RolloutBatch) -> Tensor:
            output = policy(rows, temperature=self._temperature, asks=asks)
            return torch.stack([x.sum() for x in output if x is not None and x.requires_grad]).sum()

        pieces = self._pieces(self.module.learning.updates, policy)
        phases = self._update("policy", policy, policy.model, [partial(policy_loss, rows) for rows in pieces])
        for name, critic in self.critics.items():
            if not hasattr(critic, "outputs"):
                self.notes.append(f"{name}: the passes of {type(critic).__name__} are not counted")
                continue
            pieces = self._pieces(self.module.critic_learning.updates, critic)
            losses = [partial(_value_loss, critic, rows) for rows in pieces]
            phases += self._update(name, critic, critic.backbone, losses)
        return phases

    def _update(self, name: str, module: nn.Module, model: Any, losses: Sequence[Callable[[], Tensor]]) -> list[Phase]:
        """Backward passes with the gradients that they leave, and the step that reads them."""
        trained = [p for p in module.parameters() if p.requires_grad]
        gradients = self.gradients[name]
        gathered = self._gathered(model)
        backpropagate(self.watch, module, iter(losses), self.context, keep=not self.setting.sharded)
        for parameter in trained:
            parameter.grad = None
        kept = 0 if self.setting.sharded else gradients
        backward = self._phase(f"update of {name}", gradients=kept, weights=gathered)
        if self.setting.sharded:
            backward = Phase(backward.name, backward.activations, backward.logits, gradients, weights=gathered)
        _, transient = self.steps[name]
        several = self.setting.world_size > 1 and not self.setting.sharded
        bucket = min(gradients, max([_BUCKET, *(_size([p]) for p in trained)])) if several else 0
        stepped = Phase(backward.name, max(transient, bucket), gradients=gradients)
        return [max(backward, stepped, key=lambda phase: phase.total)]

    @property
    def _temperature(self) -> float:
        return self.module.sampling.temperature

    def _pieces(self, updates: Updates, model: Policy | Any) -> list[RolloutBatch]:
        budget = updates.tokens(self.setting.on_cpu, self.setting.prompt_tokens)
        whole = isinstance(model, Policy) and self.module.composition.loss.objective.whole_groups
        options = {"whole_groups": whole, "shared": model.shares_prompts}
        return widest_pieces(self.batch, updates, self.setting.world_size, budget, **options)

    def _phase(self, name: str, *, gradients: int = 0, weights: int = 0) -> Phase:
        """What was watched since the latest peak began; nothing of it is left by now."""
        taken, logits = self.watch.most - self.watch.now, self.watch.logits_at_most
        return Phase(name, max(0, taken - logits - gradients), logits, gradients, weights=weights)


def _value_loss(critic: Any, rows: RolloutBatch) -> Tensor:
    return critic.outputs(rows).square().mean()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _size(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
