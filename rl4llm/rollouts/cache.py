"""The key-value cache of responses that are being drawn: columns are added, rows come and go, and little is copied."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64  # columns that are allocated beyond those that are needed


def closed_up(sources: Sequence[int]) -> list[int]:
    """Return which new row takes each place, so that the fewest are copied.

    One new row stays where its source is, if there is a place for it; all others fill the places that are left.

    Args:
        sources: The present row that each new one continues; several may continue the same one, and none.

    Example:
        >>> closed_up([0, 2, 3])  # row 1 has ended: the last row takes its place
        [0, 2, 1]
        >>> closed_up([1, 1, 0])  # row 1 goes on in two ways
        [2, 0, 1]
    """
    staying: dict[int, int] = {}
    for new, source in enumerate(sources):
        if source < len(sources):
            staying.setdefault(source, new)
    others = iter(sorted(set(range(len(sources))) - set(staying.values())))
    return [staying[place] if place in staying else next(others) for place in range(len(sources))]


class ResponseCache(DynamicCache):
    """The cache of a model while responses are drawn, a `DynamicCache` to the model.

    Layers that keep all keys and values hold them in memory with free columns and free rows. Layers of another kind,
    such as sliding windows, are those of transformers.

    Args:
        config: Of the model.
        columns: Most tokens of a prompt and its response.
        rows: Most rows that there will be.
    """

    padded = False  # whether the mask has to be built at each token, because prompts differ in length

    def __init__(self, config: PreTrainedConfig, *, columns: int, rows: int) -> None:
        super().__init__(config=config)
        self.layers = [RoomyLayer(columns, rows) if type(layer) is DynamicLayer else layer for layer in self.layers]

    @property
    def is_compileable(self) -> bool:
        """Whether transformers builds the mask of a token without a look at its content, for which the host waits."""
        return self.padded

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return how wide the mask of the next token is, which models of transformers 5.0 ask a compileable cache."""
        return self.get_seq_length(layer_idx) + 1 if self.padded else -1

    def take_rows(self, sources: Sequence[int], device: torch.device) -> None:
        """Fill each place from the row that is its source; a row that is its own source is not copied."""
        taken = torch.tensor(sources, dtype=torch.long, device=device)
        moved = [place for place, source in enumerate(sources) if source != place]
        to = torch.tensor(moved, dtype=torch.long, device=device)
        for layer in self.layers:
            if isinstance(layer, RoomyLayer):
                layer.take_rows(to, taken[to], len(sources))
            else:
                layer.batch_select_indices(taken)  # type: ignore[union-attr]


class RoomyLayer(DynamicLayer):
    """A layer whose keys and values are the beginning of larger tensors: new ones are written behind them.

    Args:
        columns: Most tokens that it will hold.
        rows: Most rows that it will hold.
    """

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.most_columns, self.most_rows = columns, rows

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
            self._allocate(len(self.keys), end)
        rows = len(self.keys)
        self.keys, self.values = (whole[:rows, :, :end] for whole in self.room)
        self.keys[:, :, start:], self.values[:, :, start:] = key_states, value_states
        return self.keys, self.values

    def take_rows(self, to: Tensor, source: Tensor, count: int) -> None:
        """Copy rows to other places, which may lie behind the last one, and keep the first `count`."""
        if not self.is_initialized:  # a layer may read the keys of an earlier one, and then has none
            return
        end = self.keys.shape[-2]
        if count > len(self.room[0]):
            self._allocate(min(2 * count, self.most_rows), end + 1)
        self.keys, self.values = (whole[:count, :, :end] for whole in self.room)
        if len(to):
            for whole in (self.room[0][:, :, :end], self.room[1][:, :, :end]):
                whole[to] = whole[source]

    def _allocate(self, rows: int, columns: int) -> None:
        """Copy all into tensors of so many rows and of at least so many columns."""
        columns = min(columns + ROOM, self.most_columns)
        self.room = _roomy(self.keys, rows, columns), _roomy(self.values, rows, columns)
        self.keys, self.values = (whole[: len(self.keys), :, : self.keys.shape[-2]] for whole in self.room)


def _roomy(tensor: Tensor, rows: int, columns: int) -> Tensor:
    present, heads, end, width = tensor.shape
    columns |= 1  # where it is odd, no two rows compete for the same cache lines
    whole = tensor.new_empty(rows, heads, columns, width)
    whole[:present, :, :end] = tensor
    return whole
