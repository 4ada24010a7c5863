"""The key-value cache of the responses that are being drawn: columns are added and rows leave without a copy."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64  # columns that are allocated beyond those that are needed


def closed_up(going: list[bool]) -> list[int]:
    """Return which rows to keep, in the order in which the fewest of them move.

    A row that goes on stays where it is if there is a place for it; the last ones fill the places of those that ended.

    Args:
        going: Whether each row goes on.

    Example:
        >>> closed_up([True, False, True, True, False])
        [0, 3, 2]
    """
    count = sum(going)
    last = iter([row for row in range(count, len(going)) if going[row]][::-1])
    return [row if going[row] else next(last) for row in range(count)]


class ResponseCache(DynamicCache):
    """The cache of a model while responses are drawn, a `DynamicCache` to the model.

    Layers that keep all keys and values hold them in memory with free columns and free rows. Layers of another kind,
    such as sliding windows, are those of transformers.

    Args:
        config: Of the model.
        columns: Most tokens of a prompt and its response.
    """

    padded = False  # whether the mask has to be built at each token, because prompts differ in length

    def __init__(self, config: PreTrainedConfig, columns: int) -> None:
        super().__init__(config=config)
        self.layers = [RoomyLayer(columns) if type(layer) is DynamicLayer else layer for layer in self.layers]

    @property
    def is_compileable(self) -> bool:
        """Whether transformers builds the mask of a token without a look at its content, for which the host waits."""
        return self.padded

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return how wide the mask of the next token is, which models of transformers 5.0 ask a compileable cache."""
        return self.get_seq_length(layer_idx) + 1 if self.padded else -1

    def keep_rows(self, rows: list[int], kept: Tensor) -> None:
        """Keep some rows in a new order; only those that change their place are copied.

        Args:
            rows: The rows to keep, as [closed_up][rl4llm.rollouts.cache.closed_up] gives them.
            kept: The same as a tensor on the device.
        """
        moved = [place for place, row in enumerate(rows) if row != place]
        to = torch.tensor(moved, dtype=torch.long, device=kept.device)
        for layer in self.layers:
            if isinstance(layer, RoomyLayer):
                layer.move_rows(to, kept[to], len(rows))
            else:
                layer.batch_select_indices(kept)  # type: ignore[union-attr]


class RoomyLayer(DynamicLayer):
    """A layer whose keys and values are the beginning of larger tensors: new ones are written behind them.

    Args:
        columns: Most tokens that it will hold.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    keys: Tensor  # transformers declares them as optional
    values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start without rows and columns."""
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.room = self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new columns, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self.room[0].shape[-2]:
            self._allocate(1, end)
        rows = len(self.keys)
        self.keys, self.values = (whole[:rows, :, :end] for whole in self.room)
        self.keys[:, :, start:], self.values[:, :, start:] = key_states, value_states
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, with room for more columns."""
        if self.is_initialized:  # a layer may read the keys of an earlier one, and then has none
            self._allocate(repeats, self.keys.shape[-2] + 1)

    def move_rows(self, to: Tensor, source: Tensor, count: int) -> None:
        """Copy rows to other places and keep the first `count`."""
        if self.is_initialized:
            for whole in (self.keys, self.values):
                whole[to] = whole[source]
            self.keys, self.values = self.keys[:count], self.values[:count]

    def _allocate(self, repeats: int, columns: int) -> None:
        """Copy rows, each several times, into tensors of at least so many columns."""
        room = min(columns + ROOM, self.columns) | 1  # where it is odd, no two rows compete for the same cache lines
        self.room = _roomy(self.keys, repeats, room), _roomy(self.values, repeats, room)
        rows, end = repeats * len(self.keys), self.keys.shape[-2]
        self.keys, self.values = (whole[:rows, :, :end] for whole in self.room)


def _roomy(tensor: Tensor, repeats: int, columns: int) -> Tensor:
    rows, heads, end, width = tensor.shape
    whole = tensor.new_empty(rows, repeats, heads, columns, width)
    whole[..., :end, :] = tensor[:, None]
    return whole.flatten(0, 1)
