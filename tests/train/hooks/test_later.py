from types import SimpleNamespace

import torch

from train.hooks.later import Later


def test_on_the_cpu_the_values_are_there():
    assert Later(torch.tensor([1.5, 0.0])).read() == [1.5, 0.0]


def test_on_a_gpu_they_are_copied_without_waiting_and_read_after_the_event(monkeypatch):
    did = []

    class Event:
        def record(self):
            did.append("record")

        def synchronize(self):
            did.append("synchronize")

    class Pinned:
        def copy_(self, values, non_blocking):
            did.append(("copy", non_blocking))

        def tolist(self):
            return [2.0]

    def empty(shape, dtype, pin_memory):
        assert (shape, dtype, pin_memory) == ((1,), torch.float64, True)
        return Pinned()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", empty)
    later = Later(SimpleNamespace(device=torch.device("cuda"), shape=(1,), dtype=torch.float64))
    assert did == [("copy", True), "record"]
    assert later.read() == [2.0]
    assert did[-1] == "synchronize"
