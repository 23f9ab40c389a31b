import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from commbert.errors import TrainingError
from commbert.nn.measures import auc
from commbert.nn.model import text_vectors
from commbert.training import loop
from equivalence.training_case import context, data, network, rows_of, settings, train_in

torch.set_num_threads(1)
NO_PAIRS = (np.empty(0, np.int64), np.empty(0, np.int64))


def test_the_recorded_rate_is_that_of_the_schedule(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings(optimizer={"warmup_fraction": 0.34})))
    rates = [r["learning_rate"] for r in rows_of(store) if r["event"] == "step"]
    # 9 steps, 3 of warm-up.
    expected = [1 / 3, 2 / 3, 1, 6 / 6, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx([1e-3 * e for e in expected], rel=1e-9)


def test_a_large_gradient_is_scaled_to_the_norm_asked_for(tmp_path, monkeypatch):
    seen = []
    original = torch.optim.AdamW.step

    def step(self, *arguments):
        squares = sum(float((p.grad**2).sum()) for g in self.param_groups for p in g["params"])
        seen.append(math.sqrt(squares))
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    chosen = settings(max_steps=2, optimizer={"max_gradient_norm": 0.01})
    _, store = train_in(tmp_path, network(), context(chosen))
    assert seen == pytest.approx([0.01] * 2, rel=1e-3)
    assert all(r["gradient_norm"] > 0.1 for r in rows_of(store) if r["event"] == "step")


def test_training_stops_when_patience_is_out(tmp_path, monkeypatch):
    figures = iter([0.5, 0.6, 0.6, 0.4])
    monkeypatch.setattr(loop, "validation_figures", lambda *_: {"auc_frequency_matched": next(figures)})
    outcome, _ = train_in(tmp_path, network(), context(settings(validate_every_steps=1, patience=2)))
    assert outcome.is_finished
    assert outcome.summary["stopped_early"]
    assert (outcome.summary["steps"], outcome.summary["best_step"]) == (4, 2)


def test_the_best_mlm_loss_is_the_lowest(tmp_path, monkeypatch):
    figures = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(loop, "validation_figures", lambda *_: {"mlm_loss": next(figures)})
    outcome, _ = train_in(tmp_path, network(), context(settings(best_metric="mlm_loss")))
    assert outcome.summary["best_step"] == 6


def test_a_best_metric_without_rows_is_refused_with_what_to_do(tmp_path):
    rows = replace(data(), validation_positive=NO_PAIRS, validation_negative=NO_PAIRS)
    with pytest.raises(TrainingError, match="Choose another metric"):
        train_in(tmp_path, network(), context(settings(), rows))


def test_the_validation_auc_is_that_of_the_words_cosines():
    at, model = context(settings()), network()
    vectors = text_vectors(
        model, at.data.words.rows(np.arange(24)), at.specials, pooling="mean", device=at.device
    ).double()
    (a, b), (c, d) = at.data.validation_positive, at.data.validation_negative
    positive, negative = ((vectors[x] * vectors[y]).sum(1).numpy() for x, y in ((a, b), (c, d)))
    found = loop.validation_figures(model, at)
    # Equal words may be a rounding apart here and tied there: 1 of 144 comparisons is 0.007.
    assert found["auc_frequency_matched"] == pytest.approx(auc(positive, negative), abs=0.03)
    assert found["mean_negative_cosine"] == pytest.approx(negative.mean(), abs=1e-5)


def test_validation_changes_neither_weights_nor_mode():
    model, at = network(), context(settings())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loop.validation_figures(model, at)
    assert model.training
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_how_often_one_validates_does_not_change_the_weights(tmp_path):
    models = [network(), network()]
    for model, every in zip(models, (1, 9), strict=True):
        train_in(tmp_path / str(every), model, context(settings(validate_every_steps=every)))
    a, b = (dict(m.named_parameters()) for m in models)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_the_seed_changes_the_run(tmp_path):
    models = [network(), network()]
    for model, seed in zip(models, (1, 2), strict=True):
        train_in(tmp_path / str(seed), model, context(settings(seed=seed)))
    a, b = (m.word_embeddings.weight for m in models)
    assert not torch.equal(a, b)


def test_signal_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    train_in(tmp_path, network(), context(settings(max_steps=1)))
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
