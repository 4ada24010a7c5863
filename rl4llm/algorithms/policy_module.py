"""`PolicyModule`: what every LightningModule that trains a policy shares: it answers prompts and is evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule
from torch import Tensor
from transformers import PreTrainedModel

from rl4llm.algorithms.answering import Answering
from rl4llm.algorithms.building import shard_models
from rl4llm.algorithms.evaluation import Evaluation, Evaluator
from rl4llm.algorithms.runtime import Runtime
from rl4llm.algorithms.sample_tables import SampleTables
from rl4llm.algorithms.slow_bfloat16 import warn_of_slow_bfloat16
from rl4llm.algorithms.strategy import check_strategy, runtime_of
from rl4llm.checks import UsageError
from rl4llm.critics import ValueSource
from rl4llm.data.task import PromptBatch
from rl4llm.models import Policy
from rl4llm.models.adapters import base_names
from rl4llm.models.fingerprint import fingerprint
from rl4llm.models.outline import loads_outlines
from rl4llm.rewards import Scoring
from rl4llm.rollouts import EngineSpec, HuggingFaceRollout, Sampling, prompt_limit, prompt_tokens


class PolicyModule(LightningModule):
    """A policy with an engine that draws its responses, workers that score them, and a callback that evaluates it.

    Args:
        policy: The policy.
        engine: What draws its responses.
        scoring: How the reward is run.
        sampling: How training draws responses.
        evaluation: How the policy is evaluated on held-out prompts.
        callbacks: Added to the Trainer's.
    """

    def __init__(
        self,
        policy: Policy,
        engine: EngineSpec,
        scoring: Scoring,
        sampling: Sampling,
        evaluation: Evaluation,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__()
        self.policy = policy
        self.critics: ValueSource | None = None
        self.reference: Policy | None = None
        self.engine_spec, self.sampling = engine, sampling
        draws = HuggingFaceRollout() if loads_outlines() else engine  # nothing is started for a model that cannot draw
        self.engine, self.scorer, self.ended = draws.build(policy), scoring.build(), False
        self.evaluator = Evaluator(evaluation, sampling)
        self.tables = SampleTables(self.evaluator)
        self.callbacks = [self.evaluator, self.tables, *callbacks]
        self.seed: int | None = None
        self.base: str | None = None  # digest of the frozen weights under adapters
        self.drawn = 0  # rollout batches drawn so far: names the random numbers of a step
        self.policy_version = 0  # optimizer steps of the policy so far

    def answering(self) -> Answering:
        """Return the policy, and what draws and scores its responses."""
        self.scorer.device = str(self.device)
        return Answering(self.policy, self.engine, self.scorer, self.sampling)

    def runtime(self) -> Runtime:
        """Return ranks, random numbers, backward passes and steps for the present rollout batch."""
        return runtime_of(self, seed=self.seed or 0, step=self.drawn)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that evaluates, and those that the module was given."""
        return self.callbacks

    def configure_model(self) -> None:
        """Shard the models where the strategy asks for it."""
        check_strategy(self.trainer.strategy)
        shard_models(self)

    def setup(self, stage: str) -> None:
        """Note what lies under the adapters, and start the engine again if an earlier stage has ended it."""
        frozen = self._under_adapters()
        self.base = self.base or (fingerprint(frozen.items()) if frozen else None)
        if self.ended:
            self.engine, self.ended = self.engine_spec.build(self.policy), False

    def on_fit_start(self) -> None:
        """Take the run's seed, that of the first rank, unless a checkpoint brought one."""
        if self.seed is None:
            self.seed = self.runtime().gather(torch.initial_seed())[0]

    def on_train_start(self) -> None:
        """Warn of slow bfloat16."""
        warn_of_slow_bfloat16(self.policy, self.trainer.precision)

    def validation_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Let the Trainer validate; the callback does it."""

    def test_step(self, prompts: PromptBatch, batch_index: int) -> None:
        """Let the Trainer test; the callback does it."""

    def _under_adapters(self) -> dict[str, Tensor]:
        """Return the frozen weights of the models that have adapters."""
        models = [(path, model) for path, model in self.named_modules() if isinstance(model, PreTrainedModel)]
        names = {f"{path}.{name}" for path, model in models for name in base_names(model)}
        return {name: weight for name, weight in self.named_parameters(remove_duplicate=False) if name in names}

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what a checkpoint holds: all weights, except frozen ones under adapters, which loading brings."""
        frozen = self._under_adapters()
        return {name: x for name, x in super().state_dict(*args, **options).items() if name not in frozen}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load what [state_dict][rl4llm.algorithms.policy_module.PolicyModule.state_dict] returned."""
        return super().load_state_dict({**self._under_adapters(), **state_dict}, *args, **options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save a digest of the weights that are left out."""
        checkpoint["base"] = self.base

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise if the checkpoint's adapters belong to other weights than those that were loaded."""
        if self.base is not None and checkpoint.get("base", self.base) != self.base:
            raise UsageError(
                "the checkpoint's adapters belong to other weights than those of --model.policy and --model.critics; "
                "name the same models with the same dtype as in the run that saved it."
            )

    def teardown(self, stage: str) -> None:
        """End what the engine and the scorer have started."""
        self.engine.close()
        self.scorer.close()
        self.ended = True

    def run_folder(self) -> Path:
        """Return where the run leaves its files."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def prompt_length(self, prompt: Any) -> int:
        """Return the number of tokens of a prompt."""
        return prompt_tokens(self.policy, prompt)

    @property
    def prompt_limit(self) -> int | None:
        """Most tokens of a prompt that leave room for a whole response; None where the model names no context."""
        return prompt_limit(self.policy, self.sampling.max_response_tokens)
