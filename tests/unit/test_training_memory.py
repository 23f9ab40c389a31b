"""Memory of a training on a CPU."""

from types import SimpleNamespace

import torch

from commbert.training import memory


def test_the_peak_of_a_process_is_never_less_than_what_it_holds(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=2**20))
    found = {}
    for gib in (0.5, 2.0):
        about = SimpleNamespace(memory_info=lambda gib=gib: SimpleNamespace(rss=gib * 2**30))
        monkeypatch.setattr(memory.psutil, "Process", lambda about=about: about)
        found[gib] = memory.memory_figures(torch.device("cpu"))
    assert found == {
        0.5: {"memory_gib": 0.5, "peak_memory_gib": 1.0},
        2.0: {"memory_gib": 2.0, "peak_memory_gib": 2.0},
    }
