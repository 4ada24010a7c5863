"""`VLLMServer`: responses from a vLLM server, which takes over the policy's weights after every update."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from rl4llm.checks import UsageError, check_at_least, check_interval
from rl4llm.models import ModelSource, Policy
from rl4llm.rollouts.base import EngineSpec
from rl4llm.rollouts.requests import Answer, Request, RequestEngine
from rl4llm.rollouts.vllm_client import VLLMClient
from rl4llm.rollouts.vllm_support import check_version
from rl4llm.vllm_plugin import BACKEND

_GIB = 2**30
_MODE = "processed_logprobs"  # at the temperature
_START = (
    "start it in an environment with rl4llm as `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out "
    f'--logprobs-mode {_MODE} --weight-transfer-config \'{{"backend": "{BACKEND}"}}\'`'
)


@dataclass(frozen=True)
class VLLMServer(EngineSpec):
    """Responses from a vLLM server of the same architecture, on devices of its own.

    The trainer writes the weights into a folder that the server reads too, and the server takes them over through
    vLLM's weight transfer. The trainer itself does not need vLLM; the server's environment needs rl4llm.

    Args:
        url: Address of the server.
        folder: Folder that trainer and server see under the same name, for weights on their way; None: one in memory.
        chunk_gib: Size of a file of weights in GiB; one is there at a time.
        connections: Maximum number of requests on the way.
        timeout_s: Seconds after which a request counts as lost.
        top_log_probs: How many of the likeliest tokens to report at each position.
    """

    url: str = "http://localhost:8000"
    folder: str | None = None
    chunk_gib: float = 1.0
    connections: int = 64
    timeout_s: float = 600.0
    top_log_probs: int = 0

    def __post_init__(self) -> None:
        check_at_least("VLLMServer", 0, top_log_probs=self.top_log_probs)
        check_at_least("VLLMServer", 1, connections=self.connections)
        check_interval("VLLMServer", 0.0, float("inf"), "()", chunk_gib=self.chunk_gib, timeout_s=self.timeout_s)
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"VLLMServer: url={self.url!r} is no address; give one such as http://localhost:8000.")
        if self.folder is not None and not Path(self.folder).is_dir():
            raise UsageError(f"VLLMServer: folder={self.folder!r} is not there; make it where the server sees it too.")

    def client(self) -> VLLMClient:
        """Return a client of the server."""
        return VLLMClient(self.url, self.timeout_s)

    def check(self, source: ModelSource) -> None:
        """Raise if the server does not answer, is too old, or was started without what is needed."""
        client = self.client()
        check_version("VLLMServer", client.get("version")["version"])
        try:
            found = client.get("server_info?config_format=json")["vllm_config"]
        except UsageError as error:
            raise UsageError(f"VLLMServer: the server at {self.url} takes over no weights; {_START}.") from error
        backend = (found.get("weight_transfer_config") or {}).get("backend")
        if backend != BACKEND:
            raise UsageError(f"VLLMServer: the server's weight transfer is {backend}, not {BACKEND}; {_START}.")
        mode = found["model_config"]["logprobs_mode"]
        if mode != _MODE:
            raise UsageError(f"VLLMServer: the server's log-probs are {mode}, not {_MODE}; {_START}.")

    def build(self, policy: Policy) -> "VLLMServerEngine":
        """Return a client of the server."""
        return VLLMServerEngine(policy, self)


class VLLMServerEngine(RequestEngine):
    """The engine of [VLLMServer][rl4llm.rollouts.vllm_server.VLLMServer].

    With several ranks, the first one sends the weights and every rank asks for its own responses.

    Args:
        policy: Whose responses are drawn.
        spec: Where the server is.
    """

    def __init__(self, policy: Policy, spec: VLLMServer) -> None:
        super().__init__(policy, top_log_probs=spec.top_log_probs)
        self.spec, self.client, self.joined = spec, spec.client(), False

    def push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Send the weights through files, from the first rank."""
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        if not self.joined:
            self.client.post("init_weight_transfer_engine", {"init_info": {}})
            self.joined = True
        self.client.post("start_weight_update")
        memory = "/dev/shm" if Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK) else None
        with TemporaryDirectory(prefix="rl4llm-weights-", dir=self.spec.folder or memory) as folder:
            for chunk in _chunks(weights, int(self.spec.chunk_gib * _GIB)):
                file = _written(chunk, Path(folder) / "weights.safetensors")
                self.client.post("update_weights", {"update_info": {"file": str(file)}})
        self.client.post("finish_weight_update", {"weight_version": str(version)})
        self.client.post("reset_prefix_cache")

    def answer(self, requests: list[Request], parameters: list[dict[str, Any]]) -> list[Answer]:
        """Ask for all responses, many at a time."""

        def one(request: Request, chosen: dict[str, Any]) -> Answer:
            body = {"token_ids": request.prefix, "sampling_params": chosen, "stream": False}
            found = self.client.post("inference/v1/generate", body)["choices"][0]
            return _answer(found, self.top_log_probs)

        with ThreadPoolExecutor(self.spec.connections) as pool:
            return list(pool.map(one, requests, parameters))


def _answer(found: dict[str, Any], top: int) -> Answer:
    candidates = [
        [(one["token_id"], one["logprob"]), *((other["token_id"], other["logprob"]) for other in one["top_logprobs"])]
        for one in found["logprobs"]["content"]
    ]
    return Answer.of(found["token_ids"], [list(dict(some).items()) for some in candidates], top)


def _chunks(weights: Iterable[tuple[str, Tensor]], size: int) -> Iterator[dict[str, Tensor]]:
    """Yield weights in copies on the CPU, so many at a time that a chunk is as large as asked for, or a single one."""
    chunk: dict[str, Tensor] = {}
    held = 0
    for name, tensor in weights:
        if chunk and held + tensor.nbytes > size:
            yield chunk
            chunk, held = {}, 0
        chunk[name] = tensor.to("cpu", copy=True).contiguous()
        held += tensor.nbytes
    if chunk:
        yield chunk


def _written(chunk: dict[str, Tensor], file: Path) -> Path:
    from safetensors.torch import save_file

    save_file(chunk, file)
    file.chmod(0o644)
    return file
