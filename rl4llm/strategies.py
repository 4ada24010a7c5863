"""`ShardedStrategy`: FSDP2 whose checkpoints are those of one process. `--trainer.strategy=fsdp2` names it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from rl4llm.checks import UsageError
from rl4llm.runs.checkpoint_files import CheckpointFiles, local_path, verify


class ShardedStrategy(ModelParallelStrategy):
    """Weights, gradients and optimizer states sharded over all processes by `fully_shard`.

    The module shards its parts in `configure_model`. A checkpoint is one file on the first rank, with whole tensors and
    the optimizers' states by position, exactly as one process writes it; so it opens on any number of devices, under
    this strategy, DDP or none.

        saving    every sharded tensor is gathered, one at a time, and kept on the first rank's CPU
        loading   the first rank verifies the file; every rank maps it and takes its shards of each tensor

    Args:
        process_group_backend: How processes talk; chosen by the device when None.
        timeout: How long a process waits for the others.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=False, process_group_backend=process_group_backend, timeout=timeout
        )

    def setup_environment(self) -> None:
        """Set up a mesh over which data is parallel and no layer is split."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Return True: optimizers are restored as under every other strategy."""
        return True

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """Return the plugin that writes files: `CheckpointFiles` unless another was given."""
        if self._checkpoint_io is None:
            self._checkpoint_io = CheckpointFiles()
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, io: CheckpointIO) -> None:
        self._checkpoint_io = io

    # --- saving -----------------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole state dict on the first rank, and only the names on the others."""
        assert self.lightning_module is not None
        state = self.lightning_module.state_dict()
        for name in state:
            state[name] = self._gathered(state[name])
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state of an optimizer on the first rank, by the positions of its parameters."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._gathered(inner.state_dict())

    def _gathered(self, tree: Any) -> Any:
        def whole(tensor: DTensor) -> Tensor | None:
            full = cast(DTensor, tensor.to(self.root_device)).full_tensor()
            return full.detach().cpu() if self.is_global_zero else None

        return tree_map_only(DTensor, whole, tree)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one file, on the first rank."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    # --- loading ----------------------------------------------------------------------------------------------------

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file that the first rank names and verifies; every rank fails with its message, or none."""
        path, problem = local_path(self.broadcast(str(checkpoint_path))), None
        files = self.checkpoint_io
        if not isinstance(files, CheckpointFiles):
            return files.load_checkpoint(path, weights_only=True)
        if self.is_global_zero:
            try:
                verify(path)
            except UsageError as error:
                problem = str(error)
        if problem := self.broadcast(problem):
            raise UsageError(problem)
        return files.read(path, mmap=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load every rank's shards of the weights."""
        assert self.lightning_module is not None
        present = self.lightning_module.state_dict()
        state = {name: _placed_like(value, present.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load every rank's shards of the optimizer states."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            places = [place for group in saved["param_groups"] for place in group["params"]]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            by_place = dict(zip(places, parameters, strict=True))
            state = {
                place: {name: _placed_like(value, by_place[place]) for name, value in values.items()}
                for place, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def _placed_like(value: Any, target: Any) -> Any:
    """The value as the target holds it: sharded the same way if it has its shape, else a copy of its own.

    Copies, since what is read is mapped to the file.
    """
    if not isinstance(value, Tensor):
        return tree_map_only(Tensor, Tensor.clone, value)
    if isinstance(target, DTensor) and value.shape == target.shape:
        return distribute_tensor(value.clone(), target.device_mesh, target.placements)
    return value.clone()


StrategyRegistry.register("fsdp2", ShardedStrategy, description="FSDP2 with one-file checkpoints", override=True)
