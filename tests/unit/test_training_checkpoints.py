from types import SimpleNamespace

import pytest
import torch

from commbert.errors import TrainingError
from commbert.settings.training import Optimizer
from commbert.training import checkpoints
from commbert.training.checkpoints import CheckpointStore
from commbert.training.optimization import make_optimizer

torch.set_num_threads(1)


def _trained(seed=0):
    """Return two parameters and an optimizer that took a step."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {n: torch.nn.Parameter(torch.randn(3, 2, generator=generator)) for n in ("a.weight", "b|odd")}
    optimizer = make_optimizer(parameters, Optimizer(learning_rate=0.1))
    for p in parameters.values():
        p.grad = torch.randn(3, 2, generator=generator)
    optimizer.step()
    return parameters, optimizer


def _saved(tmp_path, steps=(1,), keep=2, identity=None):
    store = CheckpointStore(tmp_path, identity or {"x": 1})
    store.prepare()
    parameters, optimizer = _trained()
    for step in steps:
        store.save(parameters, optimizer, {"step": step}, keep=keep)
    return store, parameters, optimizer


def test_what_is_restored_is_what_was_saved_to_the_bit(tmp_path):
    store, parameters, optimizer = _saved(tmp_path)
    others, other_optimizer = _trained(seed=1)
    store.restore(store.newest()[0], others, other_optimizer)
    for name, p in parameters.items():
        assert torch.equal(others[name], p)
        saved, restored = optimizer.state[p], other_optimizer.state[others[name]]
        assert saved.keys() == restored.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(saved[k], restored[k]) for k in saved)


def test_the_next_step_after_a_restore_is_the_next_step_without(tmp_path):
    store, parameters, optimizer = _saved(tmp_path)
    others, other_optimizer = _trained(seed=1)
    store.restore(store.newest()[0], others, other_optimizer)
    for ps, o in ((parameters, optimizer), (others, other_optimizer)):
        for p in ps.values():
            p.grad = torch.ones_like(p)
        o.step()
    assert all(torch.equal(others[n], p) for n, p in parameters.items())


def test_all_of_the_optimizers_state_goes_to_the_parameters_device(tmp_path):
    # As on a GPU: the fused AdamW keeps its step counter beside the parameter. "meta" stands for any other device.
    store, parameters, _ = _saved(tmp_path)
    elsewhere = {n: torch.nn.Parameter(torch.empty_like(p, device="meta")) for n, p in parameters.items()}
    optimizer = SimpleNamespace(state={})
    store.restore(store.newest()[0], elsewhere, optimizer)
    devices = {k: v.device.type for p in elsewhere.values() for k, v in optimizer.state[p].items()}
    assert devices == {"step": "meta", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_no_checkpoint_is_none(tmp_path):
    assert CheckpointStore(tmp_path, {}).newest() == (None, [])


def test_the_newest_is_the_one_of_the_highest_step_not_of_the_latest_write(tmp_path):
    store, _, _ = _saved(tmp_path, steps=(9, 100, 20), keep=5)
    assert store.newest()[0].state == {"step": 100}


def test_the_oldest_ones_beyond_keep_are_removed(tmp_path):
    store, _, _ = _saved(tmp_path, steps=(1, 2, 3), keep=2)
    assert sorted(p.name for p in store.folder.glob("step-*")) == ["step-00000002", "step-00000003"]


def test_a_write_that_breaks_off_leaves_the_old_checkpoint_and_no_rest(tmp_path, monkeypatch):
    store, parameters, optimizer = _saved(tmp_path)

    def broken(*_):
        raise OSError("disk gone")

    monkeypatch.setattr(checkpoints, "write_json", broken)
    with pytest.raises(OSError, match="disk gone"):
        store.save(parameters, optimizer, {"step": 2}, keep=2)
    assert store.newest()[0].state == {"step": 1}
    assert sorted(p.name for p in store.folder.iterdir()) == ["identity.json", "step-00000001"]


def test_leftovers_of_a_killed_writer_are_removed_at_the_start(tmp_path):
    store, _, _ = _saved(tmp_path)
    (store.folder / ".step-00000002.tmp-1234").mkdir()
    store.prepare()
    assert not list(store.folder.glob(".step*"))


def test_settings_that_differ_from_those_of_other_checkpoints_are_named(tmp_path):
    _saved(tmp_path, identity={"settings": {"seed": 1, "masking": {"rate": 0.1}}, "data": "x"})
    other = CheckpointStore(tmp_path, {"settings": {"seed": 1, "masking": {"rate": 0.2}}, "data": "x"})
    assert other.prepare() == ["settings.masking.rate"]


def test_identities_that_differ_have_folders_that_differ(tmp_path):
    a, b, c = (CheckpointStore(tmp_path, i) for i in ({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 2, "y": 2}))
    assert a.folder == b.folder
    assert a.folder != c.folder


def test_forgetting_others_keeps_the_own(tmp_path):
    store, _, _ = _saved(tmp_path)
    other, _, _ = _saved(tmp_path, identity={"x": 2})
    store.forget_others()
    assert store.newest()[0] is not None
    assert not other.folder.exists()


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    store, parameters, optimizer = _saved(tmp_path)
    with pytest.raises(TrainingError, match="other parameters"):
        store.restore(store.newest()[0], {"a.weight": parameters["a.weight"]}, optimizer)


def test_a_refused_second_trainer_leaves_the_first_ones_name(tmp_path):
    first, second = CheckpointStore(tmp_path, {"x": 1}), CheckpointStore(tmp_path, {"x": 2})
    with first.lock():
        before = (tmp_path / ".lock").read_text(encoding="utf-8")
        with pytest.raises(TrainingError, match="another training"), second.lock():
            pass
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == before
