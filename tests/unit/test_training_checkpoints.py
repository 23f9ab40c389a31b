import pytest
import torch

from commbert.errors import TrainingError
from commbert.training import checkpoints
from commbert.training.checkpoints import CheckpointStore

torch.set_num_threads(1)


def _tensors(seed=0):
    """Return weights and moments as a strategy gives them."""
    generator = torch.Generator().manual_seed(seed)
    weights = {n: torch.randn(3, 2, generator=generator) for n in ("a.weight", "b|odd")}
    return weights, {f"{n}|exp_avg": torch.randn(3, 2, generator=generator) for n in weights}


def _saved(tmp_path, steps=(1,), keep=2, identity=None):
    store = CheckpointStore(tmp_path, identity or {"x": 1})
    store.prepare()
    weights, moments = _tensors()
    for step in steps:
        store.save(weights, moments, {"step": step}, keep=keep)
    return store, weights, moments


def _shapes(weights):
    return {n: w.shape for n, w in weights.items()}


def test_what_is_read_is_what_was_saved_to_the_bit(tmp_path):
    store, *saved = _saved(tmp_path)
    found = store.tensors(store.newest()[0], _shapes(saved[0]))
    for a, b in zip(found, saved, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in b)


def test_no_checkpoint_is_none(tmp_path):
    assert CheckpointStore(tmp_path, {}).newest() == (None, [])


def test_the_newest_is_the_one_of_the_highest_step_not_of_the_latest_write(tmp_path):
    store, _, _ = _saved(tmp_path, steps=(9, 100, 20), keep=5)
    assert store.newest()[0].state == {"step": 100}


def test_the_oldest_ones_beyond_keep_are_removed(tmp_path):
    store, _, _ = _saved(tmp_path, steps=(1, 2, 3), keep=2)
    assert sorted(p.name for p in store.folder.glob("step-*")) == ["step-00000002", "step-00000003"]


def test_a_write_that_breaks_off_leaves_the_old_checkpoint_and_no_rest(tmp_path, monkeypatch):
    store, weights, moments = _saved(tmp_path)

    def broken(*_):
        raise OSError("disk gone")

    monkeypatch.setattr(checkpoints, "write_json", broken)
    with pytest.raises(OSError, match="disk gone"):
        store.save(weights, moments, {"step": 2}, keep=2)
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
    (refused,) = other.prepare()
    assert refused.endswith("step-00000001: not resumed, it differs in settings.masking.rate")


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
    store, weights, _ = _saved(tmp_path)
    with pytest.raises(TrainingError, match="other parameters"):
        store.tensors(store.newest()[0], {"a.weight": weights["a.weight"].shape})


def test_a_refused_second_trainer_leaves_the_first_ones_name(tmp_path):
    first, second = CheckpointStore(tmp_path, {"x": 1}), CheckpointStore(tmp_path, {"x": 2})
    with first.lock():
        before = (tmp_path / ".lock").read_text(encoding="utf-8")
        with pytest.raises(TrainingError, match="another training"), second.lock():
            pass
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == before
