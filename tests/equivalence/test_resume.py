"""A training that was stopped goes on as if it had not been."""

import json
import logging
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from commbert.artifacts import verify_folder
from commbert.errors import ArtifactError, TrainingError
from commbert.nn.projection import make_projection
from commbert.training import loop
from commbert.training.checkpoints import CheckpointStore
from commbert.training.validation import validation_figures
from equivalence.training_case import LEVERS, context, network, parameters, rows_of, settings, train_in, trained

N_STEPS = 9


def _stop_in_step(monkeypatch, number, kind=signal.SIGTERM):
    """Raise a signal while a step is computed, as a cluster does."""
    original = loop.add_gradient

    def with_signal(model, at, batch, *rest):
        if batch.step == number:
            signal.raise_signal(kind)
        return original(model, at, batch, *rest)

    monkeypatch.setattr(loop, "add_gradient", with_signal)


def _same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture
def straight(tmp_path):
    """Parameters and metrics of a training that was never stopped; dropout is on."""
    model = network()
    outcome, store = train_in(tmp_path / "straight", model, context(settings()))
    assert outcome.summary["steps"] == N_STEPS
    return trained(model), rows_of(store)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_training_ends_with_the_bits_of_a_straight_one(tmp_path, monkeypatch, straight, kind):
    with monkeypatch.context() as patch:
        _stop_in_step(patch, 4, kind)
        outcome, _ = train_in(tmp_path, network(), context(settings()))
    assert not outcome.is_finished
    assert outcome.summary["steps"] == 5
    model = network(seed=99)
    again, _ = train_in(tmp_path, model, context(settings()))
    assert again.summary["resumed_at_steps"] == [5]
    assert _same(trained(model), straight[0])


def _last_weights(store):
    return load_file(store.newest()[0].folder / "model.safetensors")


def test_a_stopped_training_with_a_projection_ends_with_the_bits_of_a_straight_one(tmp_path, monkeypatch):
    chosen = settings(contrastive={**LEVERS["all"], "temperature_learning_rate": 0.01})
    straight, expected = network(), train_in(tmp_path / "straight", network(), context(chosen))[1]
    train_in(tmp_path / "again", straight, context(chosen))
    with monkeypatch.context() as patch:
        _stop_in_step(patch, 4)
        train_in(tmp_path / "stopped", network(), context(chosen))
    model = network(seed=99)
    outcome, store = train_in(tmp_path / "stopped", model, context(chosen))
    assert outcome.summary["resumed_at_steps"] == [5]
    assert _same(trained(model), trained(straight))
    assert rows_of(store) == rows_of(expected)
    weights = _last_weights(store)
    assert _same(weights, _last_weights(expected))
    assert {n for n in weights if n.startswith("projection.")} == {"projection.weights.0", "projection.weights.1"}


def test_a_projection_is_drawn_by_the_seed_and_moved_by_every_step(tmp_path):
    chosen = settings(contrastive=LEVERS["all"])
    start = make_projection(chosen.contrastive, 32, seed=chosen.seed, like=torch.zeros(()))
    _, store = train_in(tmp_path, network(), context(chosen))
    weights = _last_weights(store)
    assert all(not torch.equal(weights[f"projection.{n}"], p) for n, p in start.named_parameters())
    # Nine steps of Adam at 0.001 at most, and not another draw.
    assert all((weights[f"projection.{n}"] - p).abs().max() < 0.01 for n, p in start.named_parameters())


def test_the_rate_of_the_projection_is_that_of_the_heads(tmp_path):
    chosen = settings(contrastive=LEVERS["all"], optimizer={"head_learning_rate": 1.0e-9, "weight_decay": 0.0})
    start = make_projection(chosen.contrastive, 32, seed=chosen.seed, like=torch.zeros(()))
    _, store = train_in(tmp_path, network(), context(chosen))
    weights = _last_weights(store)
    assert all((weights[f"projection.{n}"] - p).abs().max() < 1e-7 for n, p in start.named_parameters())


def test_a_checkpoint_with_a_projection_is_none_without(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _stop_in_step(patch, 4)
        train_in(tmp_path, network(), context(settings(contrastive=LEVERS["mlp"])))
    with pytest.raises(TrainingError, match="other parameters"):
        train_in(tmp_path, network(), context(settings()))


def test_a_projection_without_a_pair_loss_is_not_made(tmp_path):
    alone = {"objectives": {"mlm": 1.0, "contrastive": 0.0}, "contrastive": LEVERS["all"], "best_metric": "mlm_loss"}
    _, store = train_in(tmp_path, network(), context(settings(**alone)))
    assert not any(n.startswith("projection") for n in _last_weights(store))


def test_validation_looks_at_the_vectors_before_the_projection(tmp_path):
    at = context(settings(contrastive={"projection": "linear", "projection_size": 2}))
    model = network()
    _, store = train_in(tmp_path, model, at)
    measured = [r for r in rows_of(store) if r["event"] == "validation"][-1]
    assert measured["auc_frequency_matched"] == validation_figures(model, at)["auc_frequency_matched"]


def test_a_bad_projection_stops_the_step_before_weights_change(tmp_path, monkeypatch):
    original, before = loop.add_gradient, {}

    def poisoned(model, at, batch, temperature, projection):
        sums = original(model, at, batch, temperature, projection)
        if batch.step == 4:
            before.update(parameters(model))
            projection.weights[1].grad[0, 0] = float("inf")
        return sums

    monkeypatch.setattr(loop, "add_gradient", poisoned)
    model = network()
    with pytest.raises(TrainingError, match="step 5: loss or gradient not finite"):
        train_in(tmp_path, model, context(settings(contrastive=LEVERS["mlp"])))
    assert all(torch.equal(p, before[n]) for n, p in parameters(model).items())


def test_a_stopped_training_writes_the_metrics_of_a_straight_one(tmp_path, monkeypatch, straight):
    with monkeypatch.context() as patch:
        _stop_in_step(patch, 4)
        train_in(tmp_path, network(), context(settings()))
    _, store = train_in(tmp_path, network(seed=99), context(settings()))
    assert rows_of(store) == straight[1]


def test_a_training_killed_after_its_checkpoint_repeats_what_it_lost(tmp_path, monkeypatch, straight):
    original = loop.add_gradient

    def killed(model, at, batch, *rest):
        if batch.step == 6:
            raise KeyboardInterrupt  # as hard as it gets within a process: nothing is saved on the way out
        return original(model, at, batch, *rest)

    with monkeypatch.context() as patch:
        _stop_in_step(patch, 3)
        train_in(tmp_path, network(), context(settings()))
    monkeypatch.setattr(loop, "add_gradient", killed)
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, network(seed=98), context(settings()))
    monkeypatch.setattr(loop, "add_gradient", original)
    model = network(seed=99)
    outcome, store = train_in(tmp_path, model, context(settings()))
    assert outcome.summary["resumed_at_steps"] == [4]
    assert _same(trained(model), straight[0])
    assert rows_of(store) == straight[1]


def test_rows_of_steps_that_a_kill_undid_are_cut_off(tmp_path, monkeypatch):
    _two_checkpoints(tmp_path, monkeypatch)
    original = loop.add_gradient

    def killed(model, at, batch, *rest):
        if batch.step == 8:
            raise KeyboardInterrupt
        return original(model, at, batch, *rest)

    monkeypatch.setattr(loop, "add_gradient", killed)
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, network(), context(settings()))
    monkeypatch.setattr(loop, "add_gradient", original)
    _stop_in_step(monkeypatch, 5)
    _, store = train_in(tmp_path, network(), context(settings()))
    assert [r["step"] for r in rows_of(store) if r["event"] == "step"] == [*range(1, 7)]


def test_every_step_can_be_the_last_before_a_stop(tmp_path, monkeypatch, straight):
    for number in range(N_STEPS - 1):
        with monkeypatch.context() as patch:
            _stop_in_step(patch, number)
            outcome, store = train_in(tmp_path, network(seed=number), context(settings()))
            assert not outcome.is_finished
    model = network(seed=99)
    train_in(tmp_path, model, context(settings()))
    # The first start draws its own weights; all others get them from the checkpoint.
    first = network(seed=0)
    train_in(tmp_path / "other", first, context(settings()))
    assert _same(trained(model), trained(first))
    assert [r["step"] for r in rows_of(store) if r["event"] == "step"] == [*range(1, N_STEPS + 1)]


def test_a_finished_training_started_again_trains_nothing_and_has_the_model(tmp_path, monkeypatch, straight):
    train_in(tmp_path, network(), context(settings()))
    monkeypatch.setattr(loop, "add_gradient", None)
    model = network(seed=99)
    outcome, _ = train_in(tmp_path, model, context(settings()))
    assert outcome.is_finished
    assert _same(trained(model), straight[0])


def _two_checkpoints(tmp_path, monkeypatch):
    """Stop after step 5, with a checkpoint after every step, two of them kept."""
    with monkeypatch.context() as patch:
        _stop_in_step(patch, 4)
        return train_in(tmp_path, network(), context(settings()), checkpoint_every_s=1e-9)[1]


def test_as_many_checkpoints_are_kept_as_asked(tmp_path, monkeypatch):
    store = _two_checkpoints(tmp_path, monkeypatch)
    assert sorted(p.name for p in store.folder.glob("step-*")) == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_passed_over_by_name(tmp_path, monkeypatch, straight, name, caplog):
    store = _two_checkpoints(tmp_path, monkeypatch)
    path = store.folder / "step-00000005" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    model = network(seed=99)
    monkeypatch.setattr(logging.getLogger("commbert"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="commbert"):
        outcome, _ = train_in(tmp_path, model, context(settings()))
    assert str(path) in caplog.text
    assert outcome.summary["resumed_at_steps"] == [4]
    assert _same(trained(model), straight[0])


def test_a_checkpoint_without_manifest_is_passed_over(tmp_path, monkeypatch):
    store = _two_checkpoints(tmp_path, monkeypatch)
    (store.folder / "step-00000005" / "manifest.json").unlink()
    found, skipped = store.newest()
    assert found is not None
    assert found.folder.name == "step-00000004"
    assert "step-00000005" in skipped[0]


def test_other_settings_find_no_checkpoint(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings()), name="a")
    assert CheckpointStore(tmp_path, {"name": "b"}).newest() == (None, [])
    assert store.newest()[0] is not None


def test_going_back_to_the_old_settings_finds_the_old_checkpoint(tmp_path):
    model = network()
    train_in(tmp_path, model, context(settings()), name="a")
    train_in(tmp_path, network(), context(settings(seed=6)), name="b")
    back = network(seed=99)
    outcome, _ = train_in(tmp_path, back, context(settings()), name="a")
    assert outcome.summary["resumed_at_steps"] == [N_STEPS]
    assert _same(trained(back), trained(model))


def test_patience_survives_a_stop(tmp_path, monkeypatch):
    figures = iter([0.9, 0.5, 0.5, 0.5, 0.5])
    monkeypatch.setattr(loop, "validation_figures", lambda *_: {"auc_frequency_matched": next(figures)})
    chosen = settings(validate_every_steps=1, patience=2)
    with monkeypatch.context() as patch:
        _stop_in_step(patch, 1)
        train_in(tmp_path, network(), context(chosen))
    outcome, _ = train_in(tmp_path, network(), context(chosen))
    assert outcome.summary["stopped_early"]
    assert (outcome.summary["steps"], outcome.summary["best_step"]) == (3, 1)


def test_best_holds_the_weights_of_the_best_validation(tmp_path, monkeypatch):
    figures = iter([0.5, 0.9, 0.6])
    seen = []

    def validate(model, _):
        seen.append(trained(model))
        return {"auc_frequency_matched": next(figures)}

    monkeypatch.setattr(loop, "validation_figures", validate)
    model = network()
    outcome, store = train_in(tmp_path, model, context(settings()))
    assert outcome.summary["best_step"] == 6
    loop.load_best(store, model, 6)
    assert _same(trained(model), seen[1])


def test_weights_that_a_kept_checkpoint_calls_best_are_kept(tmp_path, monkeypatch):
    figures = iter([0.5, 0.9, 0.6])
    monkeypatch.setattr(loop, "validation_figures", lambda *_: {"auc_frequency_matched": next(figures)})
    _, store = train_in(tmp_path, network(), context(settings()))
    assert [p.name for p in store.folder.glob("best-*")] == ["best-00000006"]


def test_a_second_trainer_is_refused_and_told_who_holds_the_folder(tmp_path):
    first, second = (CheckpointStore(tmp_path, {"name": n}) for n in "ab")
    with first.lock(), pytest.raises(TrainingError, match=rf"process {os.getpid()}\b"), second.lock():
        pass


def test_the_lock_is_free_again_after_its_holder(tmp_path):
    store = CheckpointStore(tmp_path, {"name": "a"})
    with store.lock():
        pass
    with store.lock():
        assert (tmp_path / ".lock").is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_stops_the_step_by_its_number_before_weights_change(tmp_path, monkeypatch, value):
    model = network()
    at = context(settings())
    original = loop.add_gradient

    def poisoned(network_, at_, batch, *rest):
        if batch.step == 4:
            with torch.no_grad():
                network_.layers[0].feed_out.weight[0, 0] = value
            before.update(parameters(network_))
        return original(network_, at_, batch, *rest)

    before: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(loop, "add_gradient", poisoned)
    with pytest.raises(TrainingError, match="step 5: loss or gradient not finite in process 0"):
        train_in(tmp_path, model, at)
    assert all(torch.equal(p.nan_to_num(7), before[n].nan_to_num(7)) for n, p in parameters(model).items())


def test_an_infinite_gradient_of_a_finite_loss_stops_too(tmp_path, monkeypatch):
    model = network()
    original = loop.add_gradient

    def exploded(network_, at, batch, *rest):
        result = original(network_, at, batch, *rest)
        network_.word_embeddings.weight.grad[7, 7] = float("inf")
        return result

    monkeypatch.setattr(loop, "add_gradient", exploded)
    with pytest.raises(TrainingError, match=r"step 1: .*gradient norm inf"):
        train_in(tmp_path, model, context(settings()))
    assert _same(parameters(model), parameters(network()))


def test_the_last_checkpoint_outlives_a_step_that_is_not_finite(tmp_path, monkeypatch):
    store = _two_checkpoints(tmp_path, monkeypatch)
    original = loop.add_gradient

    def poisoned(model, at, batch, *rest):
        with torch.no_grad():
            model.embedding_norm.weight[0] = float("nan")
        return original(model, at, batch, *rest)

    monkeypatch.setattr(loop, "add_gradient", poisoned)
    with pytest.raises(TrainingError, match="step 6"):
        train_in(tmp_path, network(), context(settings()))
    found, skipped = store.newest()
    assert found is not None
    assert (found.state["step"], skipped) == (5, [])


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train_in(tmp_path, network(), context(settings()))
    with pytest.raises(TrainingError, match="expected shape"):
        train_in(tmp_path, network(intermediate_size=48), context(settings()))


def test_metrics_are_valid_json_with_consecutive_steps(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings()))
    rows = [json.loads(line) for line in store.metrics.read_text(encoding="utf-8").splitlines()]
    assert [r["step"] for r in rows if r["event"] == "step"] == [*range(1, N_STEPS + 1)]
    assert [r["step"] for r in rows if r["event"] == "validation"] == [3, 6, 9]


def test_a_folder_that_is_no_checkpoint_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        verify_folder(tmp_path)


def _resumed_at(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("commbert"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="commbert"):
        outcome, store = train_in(tmp_path, network(), context(settings()))
    assert store.metrics.read_bytes().count(b"\0") == 0
    return outcome.summary["resumed_at_steps"]


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_checkpoint_whose_best_weights_are_damaged_is_passed_over(tmp_path, monkeypatch, caplog, how):
    store = _two_checkpoints(tmp_path, monkeypatch)
    (best,) = store.folder.glob("best-*")
    if how == "gone":
        shutil.rmtree(best)
    else:
        (best / "model.safetensors").write_bytes(b"cut")
    assert _resumed_at(tmp_path, caplog, monkeypatch) == []
    assert "best-00000003" in caplog.text


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_checkpoint_whose_metrics_lost_rows_is_passed_over_and_never_filled_with_zeros(
    tmp_path, monkeypatch, caplog, how
):
    store = _two_checkpoints(tmp_path, monkeypatch)
    length = store.newest()[0].state["metrics_bytes"]
    if how == "gone":
        store.metrics.unlink()
    else:
        os.truncate(store.metrics, length - 1)
    resumed = _resumed_at(tmp_path, caplog, monkeypatch)
    assert resumed == ([] if how == "gone" else [4])
    assert "has lost rows" in caplog.text


def test_a_validation_that_is_not_finite_stops_the_training_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "validation_figures", lambda *_: {"auc_frequency_matched": 0.5, "mlm_loss": math.nan})
    with pytest.raises(TrainingError, match="step 3: mlm_loss of the validation not finite"):
        train_in(tmp_path, network(), context(settings()))
