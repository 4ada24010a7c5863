"""`MemoryWatch`: counts the bytes of all tensors that operations make, without doing arithmetic on the large ones."""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_LARGE = 2**22  # elements from which on even tensors with known content are replaced by fakes
_aten = torch.ops.aten


class MemoryWatch(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its release, and keeps the most bytes at a time.

    Weights and what is computed from them are fakes: tensors with shape, dtype and device, and no content. Ids and
    masks are real, since passes ask for their content. Where an operation asks for the content of a fake, every
    element counts as true, which keeps all tokens and all rows.

    Args:
        vocabulary: Size of the vocabulary; tensors whose last axis has it are counted as logits too.
    """

    def __init__(self, vocabulary: int | None = None) -> None:
        super().__init__()
        self.vocabulary, self.fakes = vocabulary, FakeTensorMode(allow_non_fake_inputs=True)
        self.held: dict[int, int] = {}
        self.logits: dict[int, int] = {}
        self.now = self.most = self.logits_at_most = 0

    def fake(self, shape: Any, dtype: torch.dtype, stride: Any = None) -> Tensor:
        """Return a tensor without content; it is counted as made."""
        with self.fakes:
            made = (
                torch.empty(shape, dtype=dtype) if stride is None else torch.empty_strided(shape, stride, dtype=dtype)
            )
        self._count(made)
        return made

    @contextmanager
    def peak(self) -> Iterator["MemoryWatch"]:
        """Watch the body; afterwards `most` and `logits_at_most` are those since it began."""
        self.most, self.logits_at_most = self.now, sum(self.logits.values())
        with self:
            yield self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation on fakes or real tensors and count what it makes."""
        args, kwargs = self._answered(func, args, kwargs or {})
        result = self._by_content(func, args)
        if result is None:
            result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    # --- content that nobody knows ----------------------------------------------------------------------------------

    def _answered(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments, with masks without content taken as true everywhere, and large tensors without content."""
        if func in (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default):
            source, indices, *others = args
            return (source, [place for index in indices for place in _as_places(index)], *others), kwargs
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if _broadcast_size(tensors) > _LARGE and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            args, kwargs = tree_map_only(Tensor, self._emptied, (args, kwargs))
        return args, kwargs

    def _emptied(self, tensor: Tensor) -> Tensor:
        return self.fake(tensor.shape, tensor.dtype, tensor.stride())

    def _by_content(self, func: Any, args: Any) -> Any:
        """What an operation gives that reads the content of a fake; None for every other operation."""
        if not args or not isinstance(args[0], FakeTensor):
            return None
        if func is _aten._local_scalar_dense.default:
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].dtype.is_floating_point else 1)
        if func is _aten.nonzero.default:
            return _places(args[0].shape)
        return None

    # --- counting ---------------------------------------------------------------------------------------------------

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.held:
            return
        self.held[key] = size = storage.nbytes()
        weakref.finalize(storage, self._release, key)
        self.now += size
        if self.vocabulary is not None and tensor.shape[-1:] == (self.vocabulary,):
            self.logits[key] = size
        if self.now > self.most:
            self.most, self.logits_at_most = self.now, sum(self.logits.values())

    def _release(self, key: int) -> None:
        self.now -= self.held.pop(key)
        self.logits.pop(key, None)


def _as_places(index: Any) -> tuple[Any, ...]:
    """A mask as the places of its true elements, all of them where it has no content; any other index as it is."""
    if index is None or index.dtype != torch.bool:
        return (index,)
    return (_places(index.shape) if isinstance(index, FakeTensor) else index.nonzero()).unbind(1)


def _places(shape: Any) -> Tensor:
    return torch.ones(shape, dtype=torch.bool).nonzero()


def _broadcast_size(tensors: list[Tensor]) -> int:
    try:
        return math.prod(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
    except RuntimeError:
        return max((tensor.numel() for tensor in tensors), default=0)


def emptied(module: nn.Module, watch: MemoryWatch, dtype: torch.dtype | None = None) -> nn.Module:
    """Replace every parameter and buffer by one without content, in place; tied weights stay one.

    Args:
        module: Whose parameters and buffers are replaced.
        watch: Counts the new ones.
        dtype: Of those that are real numbers; None: their own.
    """
    made: dict[int, Tensor] = {}

    def one(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            of = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
            fake = watch.fake(tensor.shape, of, tensor.stride())
            made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        return made[id(tensor)]

    for part in module.modules():
        held: list[Any] = [part._parameters, part._buffers]
        for tensors in held:
            tensors.update({name: one(tensor) for name, tensor in tensors.items() if tensor is not None})
    return module
