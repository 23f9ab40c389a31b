"""The evaluation of a model, against the same figures computed plainly."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

import tiny
from commbert import tables
from commbert.evaluation.scores import difference, read_scores
from commbert.known import read_known
from commbert.nn.model import load_bert, special_ids, text_vectors
from commbert.settings.evaluation import EvaluationSettings
from commbert.stages import evaluate
from commbert.stages.subjects import FrequencySubject, ModelSubject
from commbert.tokenization.encoding import encode_words, load_tokenizer

SETTINGS = EvaluationSettings(windows=20, retrieval_queries=30, random_pairs=500, bootstrap=100)


def _evaluate(stages, out, *, data=None, has_trained_head=True, subject=None):
    return evaluate.run(
        SETTINGS,
        subject=subject or ModelSubject(stages.start, "mean", has_trained_head, "cpu"),
        data=data or stages.evaluation,
        split="test",
        out=out / "evaluation.json",
        scores_out=out / "evaluation.scores.parquet",
    )


@pytest.fixture(scope="module")
def evaluated(stages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    _evaluate(stages, folder)
    return folder


@pytest.fixture(scope="module")
def figures(evaluated):
    return json.loads((evaluated / "evaluation.json").read_text(encoding="utf-8"))["figures"]


@pytest.mark.parametrize("rung", ["english", "random_code", "frequency_matched"])
def test_the_auc_of_a_rung_is_the_share_of_won_comparisons(stages, figures, rung):
    words = tables.read(stages.evaluation.words, tables.WORDS)["word"].to_pylist()
    rows = tables.read(stages.evaluation.pairs, tables.PAIRS).to_pylist()
    vectors = text_vectors(
        load_bert(stages.start),
        encode_words(load_tokenizer(stages.start), words),
        special_ids(stages.start),
        pooling="mean",
        device=torch.device("cpu"),
    ).double()
    cosine = {
        kind: np.array([float(vectors[r["word_id_a"]] @ vectors[r["word_id_b"]]) for r in rows if r["kind"] == kind])
        for kind in ("same_line", rung)
    }
    p, n = cosine["same_line"][:, None], cosine[rung][None, :]
    expected = ((p > n) + 0.5 * (p == n)).mean()
    # Words of the same tokens in another order of rounding may tie or not: 200 x 200 comparisons.
    assert figures[f"auc_{rung}"]["value"] == pytest.approx(expected, abs=2e-3)
    assert figures[f"auc_{rung}"]["n"] == len(cosine[rung])


def test_every_figure_lies_in_its_interval(figures):
    measured = {name: f for name, f in figures.items() if f}
    assert len(measured) > 10
    assert all(f["low"] <= f["value"] <= f["high"] for f in measured.values())


def test_a_model_differs_from_itself_by_nothing(evaluated, figures):
    scores = read_scores(evaluated / "evaluation.scores.parquet")
    for name, figure in figures.items():
        if figure:
            found = difference(scores, scores, name, n_resamples=50, seed=3)
            assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_evaluating_twice_gives_the_same_scores(stages, evaluated, tmp_path):
    _evaluate(stages, tmp_path)
    again, first = (tables.read(f / "evaluation.scores.parquet", tables.SCORES) for f in (tmp_path, evaluated))
    assert again.equals(first)


def test_an_untrained_head_is_not_measured_and_the_reason_is_given(stages, tmp_path):
    found = _evaluate(stages, tmp_path, has_trained_head=False)
    assert found["mlm_reason"] == "the model has no trained MLM head"
    assert found["figures"]["mlm_loss"] is None


def test_the_unigram_loss_is_that_of_counts(stages, evaluated):
    result = json.loads((evaluated / "evaluation.json").read_text(encoding="utf-8"))
    scores = read_scores(evaluated / "evaluation.scores.parquet")
    n_vocabulary = load_bert(stages.start).config.vocab_size
    # Never worse than guessing evenly, never better than knowing.
    assert 0 < result["unigram"]["loss"] < np.log(n_vocabulary)
    assert len(scores["mlm_loss"].value) == len(scores["mlm_top1"].value)


def test_a_test_split_without_pairs_has_no_figure_of_pairs_and_all_others(stages, tmp_path):
    table = tables.read(stages.evaluation.pairs, tables.PAIRS)
    tables.write(tmp_path / "pairs.parquet", tables.PAIRS, table.slice(0, 0), provenance={})
    found = _evaluate(stages, tmp_path, data=replace(stages.evaluation, pairs=tmp_path / "pairs.parquet"))
    assert not [key for key, value in found["figures"].items() if key.startswith(("auc_", "ap_")) and value]
    assert found["figures"]["mlm_loss"]["value"] > 0
    assert {rung["n"] for rung in found["controls"].values()} == {0}
    assert found["geometry"]["alignment"] is None
    assert found["geometry"]["effective_rank"] > 0
    frequency = _evaluate(
        stages,
        tmp_path / "frequency",
        data=replace(stages.evaluation, pairs=tmp_path / "pairs.parquet"),
        subject=FrequencySubject(),
    )
    assert frequency["figures"]["auc_english"] is None


def test_a_test_split_without_novel_partners_has_no_retrieval_figure(stages, tmp_path):
    n_words = tables.read(stages.evaluation.words, tables.WORDS).num_rows
    a, b = np.triu_indices(n_words, 1)
    tiny.write_known(tmp_path / "known.parquet", np.sort((a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)))
    assert len(read_known(tmp_path / "known.parquet")) == n_words * (n_words - 1) // 2
    found = _evaluate(stages, tmp_path, data=replace(stages.evaluation, known=tmp_path / "known.parquet"))
    assert found["figures"]["retrieval_mrr"] is None


def test_a_test_split_without_negatives_of_a_rung_has_no_figure_for_it(stages, tmp_path):
    table = tables.read(stages.evaluation.pairs, tables.PAIRS)
    kept = table.filter(pc.not_equal(table["kind"], "frequency_matched"))
    tables.write(tmp_path / "pairs.parquet", tables.PAIRS, kept, provenance={})
    found = _evaluate(stages, tmp_path, data=replace(stages.evaluation, pairs=tmp_path / "pairs.parquet"))
    assert found["figures"]["auc_frequency_matched"] is None
