"""`VLLM`: responses from vLLM in the trainer's process, on the trainer's device."""

import gc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_choice, check_interval
from rl4llm.models import ModelSource, Policy
from rl4llm.models.outline import loads_outlines
from rl4llm.models.pretrained import DTYPES
from rl4llm.progress import progress
from rl4llm.rollouts.base import EngineSpec
from rl4llm.rollouts.requests import Answer, Request, RequestEngine
from rl4llm.rollouts.vllm_support import (
    apart,
    check_architecture,
    check_installed,
    in_one_line,
    prepare_environment,
    write_config,
)
from rl4llm.vllm_plugin import BACKEND, register

_GIB = 2**30


@dataclass(frozen=True)
class VLLM(EngineSpec):
    """Responses from vLLM in the trainer's process, with weights of its own that are pushed after every update.

    It is the engine for models whose responses take most of a step. It needs `pip install 'rl4llm[vllm]'`. On several
    devices every process has an engine of its own, beside its share of the trainer.

    Args:
        dtype: Of the engine's weights and activations: "float32", "bfloat16" or "float16"; None: the policy's.
        memory: Share of the device's memory that the engine may take.
        cache_gib: Memory for keys and values in GiB; None: 1 on a CPU, and what `memory` leaves elsewhere.
        context: Most tokens of a prompt and its response; None: the policy's context.
        eager: Run without compilation and CUDA graphs; None: on a CPU only.
        sleeps: Free the engine's memory on an accelerator while the trainer learns; a CPU ignores it.
        top_log_probs: How many of the likeliest tokens to report at each position.
        options: Further arguments of `vllm.LLM`, by name.
    """

    dtype: str | None = None
    memory: float = 0.4
    cache_gib: float | None = None
    context: int | None = None
    eager: bool | None = None
    sleeps: bool = True
    top_log_probs: int = 0
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_at_least("VLLM", 0, top_log_probs=self.top_log_probs)
        check_at_least("VLLM", 2, context=self.context)
        check_interval("VLLM", 0.0, 1.0, "()", memory=self.memory)
        check_interval("VLLM", 0.0, float("inf"), "()", cache_gib=self.cache_gib)
        if self.dtype is not None:
            check_choice("VLLM", DTYPES, dtype=self.dtype)

    def check(self, source: ModelSource) -> None:
        """Raise if vLLM is missing, too old, or does not know the architecture; a plan of memory needs no vLLM."""
        if not loads_outlines():
            check_installed()
            check_architecture(source)

    def build(self, policy: Policy) -> "VLLMEngine":
        """Return an engine that starts with the first `sync`, when the policy is on its device."""
        check_installed()
        return VLLMEngine(policy, self)


class VLLMEngine(RequestEngine):
    """The engine of [VLLM][rl4llm.rollouts.vllm.VLLM].

    Args:
        policy: Whose responses are drawn.
        spec: How vLLM runs.
    """

    def __init__(self, policy: Policy, spec: VLLM) -> None:
        super().__init__(policy, top_log_probs=spec.top_log_probs, context=spec.context)
        self.spec, self.asleep = spec, False
        self.llm: Any = None

    def push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Start vLLM if it does not run, wake it, and load one tensor after the other."""
        with apart(self._device), in_one_line("the policy's weights could not be loaded"):
            if self.llm is None:
                with progress.phase("starting vLLM"):
                    self.llm = self._start()
            self._wake("weights")
            self.llm.start_weight_update()
            for name, tensor in weights:
                self.llm.update_weights({"update_info": {"tensors": [(name, tensor)]}})
            self.llm.finish_weight_update(str(version))
            self._wake("kv_cache")
            self.asleep = False
            self.llm.reset_prefix_cache()

    def answer(self, requests: list[Request], parameters: list[dict[str, Any]]) -> list[Answer]:
        """Draw one response per request."""
        if self.asleep:
            raise UsageError("VLLM: the engine rests and holds no weights; call sync before generate.")
        with apart(self._device), in_one_line("the engine failed while drawing responses"):
            from vllm import SamplingParams

            prompts = [{"prompt_token_ids": request.prefix} for request in requests]
            chosen = [SamplingParams(**one, flat_logprobs=True) for one in parameters]
            drawn = self.llm.generate(prompts, chosen, use_tqdm=False)
            return [_answer(one.outputs[0], self.top_log_probs) for one in drawn]

    def rest(self) -> None:
        """Free the memory of weights, keys and values on an accelerator."""
        if self.llm is not None and self._sleeps and not self.asleep:
            self.llm.sleep(level=2)  # weights are dropped: the next `sync` brings others
            self.asleep = True

    def close(self) -> None:
        """End vLLM and free its memory."""
        super().close()
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            self.folder.cleanup()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @property
    def _device(self) -> torch.device:
        return next(self.policy.parameters()).device

    @property
    def _sleeps(self) -> bool:
        return self.spec.sleeps and self._device.type != "cpu"

    def _wake(self, tag: str) -> None:
        if self.asleep:
            self.llm.wake_up(tags=[tag])

    def _start(self) -> Any:
        """Start vLLM on the policy's configuration alone: its weights come with the first update."""
        prepare_environment()
        from vllm import LLM

        register()
        self.folder = TemporaryDirectory()
        write_config(self.policy.model, self.policy.model.config, self.folder.name)
        return LLM(model=self.folder.name, **self._arguments())

    def _arguments(self) -> dict[str, Any]:
        spec, cpu = self.spec, self._device.type == "cpu"
        weight = next(self.policy.model.parameters())
        cache = 1.0 if spec.cache_gib is None and cpu else spec.cache_gib
        many = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        return {
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",  # at the temperature
            "max_logprobs": max(self.top_log_probs, 1),
            "weight_transfer_config": {"backend": BACKEND},
            "disable_log_stats": True,
            "dtype": spec.dtype or str(weight.dtype).removeprefix("torch."),
            "gpu_memory_utilization": spec.memory,
            "enforce_eager": cpu if spec.eager is None else spec.eager,
            "enable_sleep_mode": self._sleeps,
            **({} if self.context is None else {"max_model_len": self.context}),
            **({} if cache is None else {"kv_cache_memory_bytes": int(cache * _GIB)}),
            **({"distributed_executor_backend": "external_launcher"} if many else {}),
            **(spec.options or {}),
        }


def _answer(output: Any, top: int) -> Answer:
    listed = output.logprobs
    candidates = [
        list(zip(listed.token_ids[start:end], listed.logprobs[start:end], strict=True))
        for start, end in zip(listed.start_indices, listed.end_indices, strict=True)
    ]
    return Answer.of(output.token_ids, candidates, top)
