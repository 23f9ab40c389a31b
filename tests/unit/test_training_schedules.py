"""Schedules, the learnt temperature, guards, and figures that are looked at later than they are made."""

import logging
import math
import signal

import pytest
import torch
from pydantic import ValidationError

from commbert.errors import TrainingError
from commbert.settings.training import Objectives, Optimizer
from commbert.training import loop
from commbert.training.optimization import Temperature, rate_factor
from commbert.training.plan import make_plan
from commbert.training.step import weights_at
from equivalence.training_case import (
    NO_DROPOUT,
    context,
    gradient_of_step,
    network,
    parameters,
    rows_of,
    settings,
    train_in,
    trained,
)

torch.set_num_threads(1)


def _steps(store):
    return [r for r in rows_of(store) if r["event"] == "step"]


def _figures(monkeypatch, values, **more):
    figures = iter(values)
    monkeypatch.setattr(loop, "validation_figures", lambda *_: {"auc_frequency_matched": next(figures), **more})


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (1, 1.0), (2, 1.0), (6, 0.5), (4, 0.5 + math.sqrt(0.5) / 2)])
def test_the_cosine_rate_by_hand_over_ten_steps_with_two_of_warm_up(step, expected):
    assert rate_factor(step, 10, Optimizer(schedule="cosine", warmup_fraction=0.2)) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_without_decay_the_rate_stays_at_its_peak_after_the_warm_up(schedule):
    chosen = Optimizer(schedule=schedule, warmup_fraction=0.5)
    assert [rate_factor(s, 4, chosen) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_the_rate_falls_after_a_plateau_and_only_then(tmp_path, monkeypatch):
    _figures(monkeypatch, [0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    optimizer = {"schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.1, "warmup_fraction": 0.0}
    _, store = train_in(tmp_path, network(), context(settings(validate_every_steps=1, optimizer=optimizer)))
    # The best is that of step 3; steps 4 and 5 bring nothing, 6 and 7 nothing again.
    expected = [1e-3] * 5 + [1e-4] * 2 + [1e-5] * 2
    assert [r["learning_rate"] for r in _steps(store)] == pytest.approx(expected, rel=1e-9)


def test_a_plateau_survives_a_stop(tmp_path, monkeypatch):
    values = [0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    optimizer = {"schedule": "plateau", "plateau_patience": 2, "warmup_fraction": 0.0}
    chosen = context(settings(validate_every_steps=1, optimizer=optimizer))
    _figures(monkeypatch, values)
    _, straight = train_in(tmp_path / "straight", network(), chosen)
    _figures(monkeypatch, values)
    original = loop.add_gradient

    def stopping(model, at, batch, *rest):
        if batch.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(model, at, batch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "add_gradient", stopping)
        train_in(tmp_path / "stopped", network(), chosen)
    _, store = train_in(tmp_path / "stopped", network(), chosen)
    assert rows_of(store) == rows_of(straight)


def test_a_gain_below_the_least_is_no_gain(tmp_path, monkeypatch):
    _figures(monkeypatch, [0.5, 0.505, 0.509, 0.6])
    outcome, _ = train_in(tmp_path, network(), context(settings(validate_every_steps=1, patience=2, min_gain=0.01)))
    assert (outcome.summary["steps"], outcome.summary["best_step"], outcome.summary["stopped_early"]) == (3, 1, True)


@pytest.mark.parametrize(("step", "expected"), [(0, (0.9, 0.1)), (5, (0.5, 0.5)), (10, (0.1, 0.9))])
def test_the_weights_move_along_half_a_cosine(step, expected):
    found = weights_at(Objectives(mlm=0.9, contrastive=0.1, mlm_end=0.1), step, 11)
    assert found == pytest.approx(expected, abs=1e-12)


def test_without_an_end_the_weights_stay():
    assert weights_at(Objectives(mlm=0.7, contrastive=0.3), 7, 11) == (0.7, 0.3)


def test_the_weights_of_each_step_are_recorded_and_make_its_loss(tmp_path):
    chosen = settings(objectives={"mlm": 1.0, "contrastive": 0.0, "mlm_end": 0.2})
    _, store = train_in(tmp_path, network(), context(chosen))
    rows = _steps(store)
    assert (rows[0]["mlm_weight"], rows[-1]["mlm_weight"]) == pytest.approx((1.0, 0.2))
    for row in rows:
        joint = row["mlm_weight"] * row["mlm_loss"] + (1.0 - row["mlm_weight"]) * row["contrastive_loss"]
        assert row["loss"] == pytest.approx(joint, rel=1e-9)


def test_a_stream_whose_weight_comes_later_is_read_from_the_start():
    chosen = settings(objectives={"mlm": 1.0, "contrastive": 0.0, "mlm_end": 0.2})
    assert make_plan(chosen, n_windows=10, n_pairs=20, world_size=1).pairs.n_rows == 20


def test_an_end_above_the_sum_is_refused():
    with pytest.raises(ValidationError, match="at most"):
        Objectives(mlm=0.7, contrastive=0.3, mlm_end=1.1)


def _learnt(rate, **more):
    return settings(contrastive={"temperature_learning_rate": rate, "temperature": 0.05, **more})


def test_a_learnt_temperature_moves_and_is_recorded(tmp_path):
    _, store = train_in(tmp_path, network(), context(_learnt(0.05)))
    found = [r["temperature"] for r in _steps(store)]
    assert found[0] == pytest.approx(0.05, rel=1e-6)
    assert abs(found[-1] / 0.05 - 1) > 0.05


def test_a_fixed_temperature_stays(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings()))
    assert {r["temperature"] for r in _steps(store)} == {settings().contrastive.temperature}


@pytest.mark.parametrize("bound", ["temperature_min", "temperature_max"])
def test_a_learnt_temperature_stays_within_its_bounds_and_can_leave_them_again(bound):
    chosen = _learnt(0.1, **{bound: 0.05}).contrastive
    temperature = Temperature(chosen, torch.zeros(()))
    temperature.parameter.data += {"temperature_min": -1.0, "temperature_max": 1.0}[bound]
    temperature.clamp()
    assert temperature.value().item() == pytest.approx(0.05, rel=1e-6)
    temperature.value().backward()
    assert temperature.parameter.grad != 0.0


def test_a_temperature_outside_its_bounds_is_refused():
    with pytest.raises(ValidationError, match="must start between"):
        _learnt(0.1, temperature_max=0.04)


def test_the_gradient_of_the_temperature_is_the_slope_of_the_loss():
    model, at = network(dtype=torch.float64, **NO_DROPOUT), context(settings())
    value = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    gradient_of_step(model, at, 0, temperature=value)
    up, down = (gradient_of_step(model, at, 0, temperature=0.3 + h).loss for h in (1e-6, -1e-6))
    assert float(value.grad) == pytest.approx((up - down) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("every", [2, 4, 100])
def test_looking_at_the_figures_later_changes_neither_rows_nor_weights(tmp_path, every):
    models = [network(), network()]
    rows = []
    for model, log_every_steps in zip(models, (1, every), strict=True):
        _, store = train_in(
            tmp_path / str(log_every_steps), model, context(settings()), log_every_steps=log_every_steps
        )
        rows.append(rows_of(store))
    assert rows[0] == rows[1]
    a, b = map(trained, models)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_bad_step_that_is_seen_later_has_changed_nothing_since(tmp_path, monkeypatch):
    model, before = network(), {}
    original = loop.add_gradient

    def poisoned(network_, at, batch, *rest):
        sums = original(network_, at, batch, *rest)
        if batch.step == 4:
            before.update(parameters(network_))
            network_.mlm_bias.grad[0] = float("nan")
        return sums

    monkeypatch.setattr(loop, "add_gradient", poisoned)
    chosen = context(settings(validate_every_steps=9))
    with pytest.raises(TrainingError, match="step 5: loss or gradient not finite"):
        train_in(tmp_path, model, chosen, log_every_steps=8)
    assert all(torch.equal(p, before[n]) for n, p in parameters(model).items())


@pytest.mark.parametrize(("cosine", "loss_share", "alarms"), [(0.95, 1.0, True), (0.5, 1.0, False), (0.95, 0.9, False)])
def test_collapse_is_a_high_cosine_and_a_loss_of_guessing_together(
    tmp_path, monkeypatch, caplog, cosine, loss_share, alarms
):
    _figures(monkeypatch, [0.5] * 9, mean_negative_cosine=cosine)
    original = loop.Record.read

    def read(self, elapsed_s):
        rows = original(self, elapsed_s)
        for row, figures in rows:
            figures[1] = loss_share * row["pair_terms"] * math.log1p(row["negatives_per_anchor"])
        return rows

    monkeypatch.setattr(loop.Record, "read", read)
    monkeypatch.setattr(logging.getLogger("commbert"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="commbert"):
        outcome, _ = train_in(tmp_path, network(), context(settings()))
    assert outcome.summary["collapsed_at_steps"] == ([3, 6, 9] if alarms else [])
    assert ("collapsed" in caplog.text) == alarms


def test_a_loss_of_guessing_is_told_by_the_weights_of_the_pairs_of_the_step(tmp_path, monkeypatch):
    _figures(monkeypatch, [0.5] * 9, mean_negative_cosine=0.95)
    original, weights = loop.Record.read, []

    def read(self, elapsed_s):
        rows = original(self, elapsed_s)
        for row, figures in rows:
            weights.append(row["pair_weight"])
            figures[1] = row["pair_terms"] * row["pair_weight"] * math.log1p(row["negatives_per_anchor"])
        return rows

    monkeypatch.setattr(loop.Record, "read", read)
    chosen = settings(contrastive={"pair_weights": "pmi"}, validate_every_steps=1)
    outcome, _ = train_in(tmp_path, network(), context(chosen))
    assert min(weights) < 0.95
    assert outcome.summary["collapsed_at_steps"] == [*range(1, 10)]


def test_dropout_can_be_set_apart_from_the_base_model():
    model = network()
    model.set_dropout(hidden=0.3, attention=None)
    assert (model.dropout.p, model.layers[1].dropout.p, model.layers[1].attention_dropout) == (0.3, 0.3, 0.1)
    model.set_dropout(hidden=None, attention=0.0)
    assert (model.dropout.p, model.layers[1].attention_dropout) == (0.3, 0.0)
