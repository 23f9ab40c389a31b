"""Figures of classifiers and scorers, against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

import finetune_case as case
import tiny
from commbert.evaluation.bootstrap import mean_resamples
from commbert.finetuning import baselines
from commbert.finetuning.baselines import bag_of_tokens, majority
from commbert.finetuning.examples import make_dataset
from commbert.finetuning.measures import (
    accuracy_gain,
    class_estimates,
    confusion,
    figures_of,
    per_class,
    score_estimates,
    score_figures,
)
from commbert.finetuning.table import read_table
from commbert.tokenization.encoding import load_tokenizer


def labels(n=200, k=4, seed=0):
    rng = np.random.default_rng([seed, 1])
    truth = rng.integers(0, k, n)
    said = np.where(rng.random(n) < 0.6, truth, rng.integers(0, k, n))
    return truth, said


def test_the_confusion_table_is_scikit_learns():
    truth, said = labels()
    assert np.array_equal(confusion(truth, said, 5), confusion_matrix(truth, said, labels=range(5)))


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_scikit_learns(seed):
    truth, said = labels(n=30, seed=seed)
    said[said == 2] = 1  # a class that is never called so
    found = figures_of(confusion(truth, said, 6))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    for mean in ("macro", "weighted"):
        p, r, f, _ = precision_recall_fscore_support(truth, said, average=mean, zero_division=0)
        assert [found[f"{mean}_{x}"] for x in ("precision", "recall", "f1")] == pytest.approx([p, r, f])


def test_figures_of_a_class_are_scikit_learns():
    truth, said = labels()
    p, r, f, n = precision_recall_fscore_support(truth, said, zero_division=0)
    rows = per_class(confusion(truth, said, 4), ("a", "b", "c", "d"))
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    for i, row in enumerate(rows):
        assert [row["precision"], row["recall"], row["f1"], row["rows"]] == pytest.approx([p[i], r[i], f[i], n[i]])


def test_intervals_from_cells_are_those_from_rows():
    truth, said = labels(n=300)
    found = class_estimates(confusion(truth, said, 4), n_resamples=4000, seed=1)["accuracy"]
    right = (truth == said).astype(float)
    by_row = mean_resamples(right, np.arange(300), weights=None, n_resamples=4000, seed=2)
    assert found["value"] == right.mean()
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(by_row, [2.5, 97.5]), abs=0.007)


def test_the_interval_of_macro_f1_is_that_of_resampled_rows():
    truth, said = labels(n=120)
    found = class_estimates(confusion(truth, said, 4), n_resamples=3000, seed=1)["macro_f1"]
    rng = np.random.default_rng([5, 1])
    drawn = [figures_of(confusion(truth[r], said[r], 4))["macro_f1"] for r in rng.integers(0, 120, (3000, 120))]
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.012)


def test_the_gain_is_the_difference_of_the_accuracies_with_its_paired_interval():
    rng = np.random.default_rng([7, 1])
    ours, theirs = rng.random(400) < 0.8, rng.random(400) < 0.6
    found = accuracy_gain(ours, theirs, n_resamples=4000, seed=3)
    difference = ours.astype(float) - theirs
    drawn = difference[rng.integers(0, 400, (4000, 400))].mean(1)
    assert found["value"] == pytest.approx(ours.mean() - theirs.mean())
    assert [found["low"], found["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.007)


def test_figures_of_scores_by_hand_and_by_scipy():
    truth, said = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 2.0, 1.0, 4.0])
    found = score_figures(truth, said)
    assert found["mae"] == pytest.approx(1.0)
    assert found["rmse"] == pytest.approx(np.sqrt(6 / 4))
    assert found["spearman"] == pytest.approx(spearmanr(truth, said).statistic)


def test_a_constant_scorer_has_no_correlation():
    truth = np.arange(9.0)
    found = score_estimates(truth, np.full(9, 4.0), n_resamples=100, seed=0)
    assert found["spearman"]["value"] is None
    assert found["mae"]["low"] <= found["mae"]["value"] <= found["mae"]["high"]


@pytest.fixture
def data(tmp_path):
    tiny.write_tokenizer(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")

    def _data(rows, **changes):
        chosen = case.settings(**changes)
        table = read_table(case.write(tmp_path / "t.csv", rows), chosen, tokenizer)
        return make_dataset(table, chosen, "t").splits

    return _data


def test_the_constant_rule_says_the_most_frequent_class_or_the_mean_of_training(data):
    splits = data([(f"a{i}", "y" if i % 4 else "x") for i in range(80)])
    assert set(majority(splits["train"], splits["test"], is_scoring=False)) == {1}
    splits = data([(f"a{i}", i % 4) for i in range(80)], task="scoring")
    expected = splits["train"].target.mean()
    assert majority(splits["train"], splits["test"], is_scoring=True) == pytest.approx(np.full(8, expected))


@pytest.mark.parametrize("most", [20_000, 40])
def test_a_bag_of_tokens_learns_words_that_tell_the_class(data, monkeypatch, most):
    monkeypatch.setattr(baselines, "MAX_ROWS", most)
    splits = data(case.texts(150))
    said = bag_of_tokens(splits["train"], splits["test"], n_tokens=500, is_scoring=False, seed=1)
    assert (said == splits["test"].target).mean() >= 0.9


def test_a_bag_of_tokens_learns_scores(data):
    rows = [(f"{'water ' * (i % 4)}house", i % 4) for i in range(160)]
    splits = data(rows, task="scoring")
    said = bag_of_tokens(splits["train"], splits["test"], n_tokens=500, is_scoring=True, seed=1)
    assert np.abs(said - splits["test"].target).mean() < 0.4
