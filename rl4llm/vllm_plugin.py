"""How vLLM takes over the weights of a policy. vLLM loads this as a plugin in every process where rl4llm is installed.

It registers the backend "rl4llm" of vLLM's weight transfer (init, start, update, finish). An update holds either the
tensors themselves, for an engine in the trainer's process, or a safetensors file, for a server that sees the same
folder. It needs no accelerator and no process group, and nothing in it is executed or unpickled.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

BACKEND = "rl4llm"


def register() -> None:
    """Register the backend with vLLM; a second call, or a vLLM without weight transfer, changes nothing."""
    with suppress(ImportError, ValueError):
        from vllm.distributed.weight_transfer import WeightTransferEngineFactory

        WeightTransferEngineFactory.register_engine(BACKEND, transfer_engine())


@dataclass
class Start:
    """The initialization of a transfer, which has no settings."""


@dataclass
class Update:
    """Some weights, under the names of the Hugging Face checkpoint.

    Args:
        tensors: Names and tensors, for an engine in this process.
        file: Path of a safetensors file that holds them.
    """

    tensors: list[Any] | None = None
    file: str | None = None


def transfer_engine() -> Any:
    """Return the class of vLLM's workers that receives updates. It is made here because its base is vLLM's."""
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    class Received(WeightTransferEngine):
        """Loads whole tensors in the format of a checkpoint, layer by layer."""

        init_info_cls, update_info_cls = Start, Update

        def init_transfer_engine(self, init_info: Start) -> None:
            """Do nothing: there is no connection to set up."""

        def start_weight_update(self) -> None:
            """Let the layers take new weights."""
            initialize_layerwise_reload(self.model)

        def receive_weights(self, update_info: Update) -> None:
            """Load some weights."""
            tensors = update_info.tensors
            if update_info.file is not None:
                from safetensors.torch import load_file

                tensors = list(load_file(update_info.file).items())
            self.model.load_weights(iter(tensors or ()))

        def finish_weight_update(self) -> None:
            """Bring the loaded weights into the form in which the layers compute."""
            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            """Do nothing: there is no connection to close."""

    return Received
