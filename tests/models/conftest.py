"""Memory measurement for the tests of models."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Count the bytes of live tensors created inside, now and at the peak; each storage counts once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in known and id(storage) not in self.sizes:
                    self.sizes[id(storage)] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, id(storage))
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, key):
        self.now -= self.sizes.pop(key)


@pytest.fixture
def live_bytes():
    return LiveBytes


@pytest.fixture
def saved_bytes():
    """Return the bytes that a call keeps for its backward pass, without parameters, each storage once."""

    def measure(call, parameters):
        mine = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        kept = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in mine:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call()
        return sum(storage.nbytes() for storage in kept.values())

    return measure
