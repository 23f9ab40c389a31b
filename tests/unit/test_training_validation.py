"""The hard figures of a validation, and what follows from them."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from commbert.errors import TrainingError
from commbert.known import contains, pair_keys
from commbert.nn.measures import auc
from commbert.nn.model import text_vectors
from commbert.training import loop, record
from commbert.training.plan import make_plan
from commbert.training.progress import TrainingProgress
from commbert.training.retrieval import choose_retrieval
from commbert.training.validation import FIGURES, validation_figures
from equivalence.training_case import context, data, network, rows_of, settings, train_in

torch.set_num_threads(1)
NO_PAIRS = (np.empty(0, np.int64), np.empty(0, np.int64))


def known_by_hand(*, n_known):
    """Return data of twelve validation pairs of distinct words; the first ``n_known`` share a training line."""
    a, b = np.arange(12), np.arange(12, 24)
    known = np.sort(pair_keys(a[:n_known], b[:n_known]))
    rows = replace(data(), validation_positive=(a, b), validation_negative=(a, np.roll(b, 1)), known=known)
    retrieval = choose_retrieval(a, b, np.ones(24, np.bool_), known, n_queries=30, n_candidates=30, seed=0)
    return replace(rows, validation_retrieval=retrieval)


def vectors_of(model, at):
    return text_vectors(model, at.data.words.rows(np.arange(24)), at.specials, pooling="mean", device=at.device)


def test_the_novel_auc_is_over_pairs_that_share_no_training_line_and_their_own_negatives():
    at, model = context(settings(), known_by_hand(n_known=5)), network()
    vectors = vectors_of(model, at).double()
    (a, b), (c, d) = at.data.validation_positive, at.data.validation_negative
    positive, negative = ((vectors[x[5:]] * vectors[y[5:]]).sum(1).numpy() for x, y in ((a, b), (c, d)))
    found = validation_figures(model, at)
    assert found["auc_frequency_matched_novel"] == pytest.approx(auc(positive, negative), abs=1e-9)
    assert found["auc_frequency_matched_novel"] != found["auc_frequency_matched"]


def test_the_mrr_is_that_of_the_words_own_vectors():
    at, model = context(settings(), known_by_hand(n_known=5)), network()
    vectors, task = vectors_of(model, at), at.data.validation_retrieval
    assert task.query.tolist() == [*range(5, 12), *range(17, 24)]
    expected = []
    for q in task.query.tolist():
        partner = (q + 12) % 24
        scores = {c: float(vectors[q] @ vectors[c]) for c in range(24) if c != q}
        expected.append(1 / (1 + sum(s > scores[partner] for s in scores.values())))
    assert validation_figures(model, at)["retrieval_mrr"] == pytest.approx(np.mean(expected), abs=1e-3)


def test_hard_is_the_mean_of_novel_auc_and_mrr():
    found = validation_figures(network(), context(settings()))
    assert found["hard"] == pytest.approx(
        (found["auc_frequency_matched_novel"] + found["retrieval_mrr"]) / 2, rel=1e-12
    )


def test_what_has_no_rows_is_not_measured():
    found = validation_figures(network(), context(settings(), known_by_hand(n_known=12)))
    assert found["auc_frequency_matched"] is not None
    assert [found[n] for n in ("auc_frequency_matched_novel", "retrieval_mrr", "hard")] == [None] * 3


@pytest.mark.parametrize(
    ("metric", "lacking"),
    [
        ("hard", "auc_frequency_matched_novel and retrieval_mrr"),
        ("auc_frequency_matched_novel", "auc_frequency_matched_novel"),
        ("retrieval_mrr", "retrieval_mrr"),
    ],
)
def test_a_hard_metric_without_rows_is_refused_before_the_first_step(tmp_path, monkeypatch, metric, lacking):
    monkeypatch.setattr(loop, "add_gradient", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(TrainingError, match=f"best_metric {metric}: expected rows for {lacking} in the validation"):
        train_in(tmp_path, network(), context(settings(best_metric=metric), known_by_hand(n_known=12)))


def test_hard_needs_both_of_its_parts(tmp_path):
    rows = replace(known_by_hand(n_known=5), validation_positive=NO_PAIRS, validation_negative=NO_PAIRS)
    with pytest.raises(TrainingError, match="expected rows for auc_frequency_matched_novel in the validation split"):
        train_in(tmp_path, network(), context(settings(best_metric="hard"), rows))


def figures(monkeypatch, rows):
    """Let validations find these values of (novel AUC, MRR), one after the other."""
    values = iter(rows)

    def found(*_):
        novel, mrr = next(values)
        both = {"auc_frequency_matched_novel": novel, "retrieval_mrr": mrr, "hard": (novel + mrr) / 2}
        return {"auc_frequency_matched": 0.5, "mlm_loss": None, **both}

    monkeypatch.setattr(loop, "validation_figures", found)


@pytest.mark.parametrize(
    ("metric", "best_step"), [("hard", 6), ("auc_frequency_matched_novel", 3), ("retrieval_mrr", 9)]
)
def test_best_is_the_step_with_the_highest_value_of_the_metric_asked_for(tmp_path, monkeypatch, metric, best_step):
    rows = [(0.9, 0.1), (0.8, 0.3), (0.6, 0.4)]
    figures(monkeypatch, rows)
    outcome, _ = train_in(tmp_path, network(), context(settings(best_metric=metric)))
    summary = outcome.summary
    assert summary["best_step"] == best_step
    assert summary["best_metric"] == metric
    novel, mrr = rows[best_step // 3 - 1]
    assert summary["best_value"] == {"hard": (novel + mrr) / 2, "retrieval_mrr": mrr}.get(metric, novel)
    assert summary["figures_at_best"]["retrieval_mrr"] == mrr
    assert summary["figures_at_best"]["auc_frequency_matched"] == 0.5


def test_patience_and_least_gain_look_at_the_hard_metric(tmp_path, monkeypatch):
    figures(monkeypatch, [(0.5, 0.5), (0.9, 0.11), (0.9, 0.11), (0.9, 0.9)])
    chosen = settings(best_metric="hard", validate_every_steps=1, patience=2, min_gain=0.01)
    summary = train_in(tmp_path, network(), context(chosen))[0].summary
    assert (summary["steps"], summary["best_step"], summary["stopped_early"]) == (3, 1, True)


def test_the_figures_of_the_best_step_survive_a_stop(tmp_path):
    at = context(settings(best_metric="hard", validate_every_steps=1))
    straight = train_in(tmp_path / "straight", network(), at)[0].summary
    train_in(tmp_path / "again", network(), at, checkpoint_every_s=0.0)
    again = train_in(tmp_path / "again", network(seed=9), at)[0].summary
    for name in ("best_step", "best_value", "figures_at_best"):
        assert again[name] == straight[name]
    assert straight["figures_at_best"].keys() == set(FIGURES)


def test_every_validation_is_recorded_with_the_hard_figures(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings(best_metric="hard")))
    rows = [r for r in rows_of(store) if r["event"] == "validation"]
    assert [r["step"] for r in rows] == [3, 6, 9]
    assert all(0 < r[name] < 1 for r in rows for name in ("hard", "auc_frequency_matched_novel", "retrieval_mrr"))


# 26 windows by 9 are 3 steps an epoch, 31 pairs by 5 are 7.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 3}, [3, 6, 9]),
        ({"epochs": 3, "max_steps": 7}, [3, 6, 7]),
        ({"epochs": 2, "epoch": "pairs", "batch_pairs": 5}, [7, 14]),
        ({"epochs": 2, "epoch": "longer", "batch_pairs": 5, "max_steps": 12}, [7, 12]),
    ],
)
def test_a_validation_follows_each_epoch_of_the_stream_that_counts_them(tmp_path, changes, expected):
    chosen = settings(validate_every_steps="epoch", **changes)
    _, store = train_in(tmp_path, network(), context(chosen))
    assert [r["step"] for r in rows_of(store) if r["event"] == "validation"] == expected


def test_an_epoch_of_windows_without_mlm_is_one_of_pairs():
    chosen = settings(objectives={"mlm": 0.0, "contrastive": 1.0}, batch_pairs=5)
    assert make_plan(chosen, n_windows=26, n_pairs=31, world_size=1).steps_per_epoch == 7


def test_the_live_line_keeps_the_hard_figures_of_the_last_validation(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("commbert.training.progress._EVERY_S", -1.0)
    figures(monkeypatch, [(0.25, 0.75)] * 3)
    with caplog.at_level(logging.INFO, logger="commbert.training.progress"):
        train_in(tmp_path, network(), context(settings(best_metric="hard")))
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("progress")]
    assert len(lines) == 9
    assert ["; validation: novel AUC 0.250, MRR 0.750" in line for line in lines] == [False] * 3 + [True] * 6


def test_figures_that_were_not_measured_are_not_in_the_live_line(tmp_path):
    written = record.Record(tmp_path / "m.jsonl", 0, TrainingProgress(1, 0, is_shown=False), device=torch.device("cpu"))
    written.write({"event": "validation", "step": 1, "retrieval_mrr": None})
    assert written._validated == ""
    written.close()
    assert json.loads((tmp_path / "m.jsonl").read_text())["retrieval_mrr"] is None


def test_the_marks_of_collapse_are_those_of_the_words_that_were_encoded():
    at, model = context(settings()), network()
    found = validation_figures(model, at)
    (a, b), (c, d), retrieval = at.data.validation_positive, at.data.validation_negative, at.data.validation_retrieval
    words = np.unique(np.concatenate([a, b, c, d, retrieval.words]))
    vectors = text_vectors(model, at.data.words.rows(words), at.specials, pooling="mean", device=at.device).double()
    values = np.linalg.svd((vectors - vectors.mean(0)).numpy(), compute_uv=False)
    share = values[values > 1e-6] / values.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    distance = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    apart = ~torch.eye(len(vectors), dtype=torch.bool)
    # All pairs, of which the figure draws 20,000.
    assert found["uniformity"] == pytest.approx(float(torch.exp(-2 * distance[apart]).mean().log()), abs=0.05)


def test_weights_that_are_no_numbers_give_marks_of_collapse_that_are_none():
    at, model = context(settings()), network()
    with torch.no_grad():
        model.word_embeddings.weight.fill_(float("nan"))
    found = validation_figures(model, at)
    assert np.isnan([found["effective_rank"], found["uniformity"]]).all()


def test_novelty_is_asked_of_the_known_pairs():
    rows = data()
    expected = [
        not bool(contains(rows.known, pair_keys(np.array([a]), np.array([b])))[0])
        for a, b in zip(*rows.validation_positive, strict=True)
    ]
    assert rows.validation_is_novel.tolist() == expected
