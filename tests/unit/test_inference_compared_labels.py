"""Two classifiers or scorers on the same labelled texts: figures of scikit-learn, paired intervals, honest gaps."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score

from cli_case import assert_refused, commbert
from commbert.errors import ModelError
from commbert.inference import comparedfiles
from commbert.inference.classifying import load_classifier, scores_of
from commbert.inference.comparedfiles import ComparedFile, read_labelled_texts, told_file
from commbert.inference.comparedlabels import _macro_f1
from commbert.inference.comparing import compare
from commbert.inference.models import load_model
from commbert.inference.texts import AskedText
from inference_case import write_classifier, write_model

torch.set_num_threads(1)
LABELS = ("good", "bad", "null")
TEXTS = [f"{a} {b} {i}" for i, (a, b) in enumerate([("water", "mac"), ("time", "people"), ("rlc", "index")] * 12)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("classifiers")
    return {
        "a": write_classifier(at / "a", LABELS),
        "b": write_classifier(at / "b", ("bad", "other", "good"), seed=1),
        "plain": write_model(at / "plain", seed=2),
        "scorer": write_classifier(at / "scorer", ("stars",), problem_type="regression"),
        "scorer2": write_classifier(at / "scorer2", ("stars",), problem_type="regression", seed=3),
        "several": write_classifier(at / "several", LABELS, problem_type="multi_label_classification"),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "labels.csv"
    rows = [f"{text},{LABELS[i % 3]},{'test' if i % 4 else 'train'}" for i, text in enumerate(TEXTS)]
    path.write_text("text,label,split\n" + "\n".join(rows) + "\n ,good,test\nwater, ,test\n", encoding="utf-8")
    return path


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{t}\t{i * 7 % 5}\n" for i, t in enumerate(TEXTS)), encoding="utf-8")
    return path


def run(models, path, a="a", b="b", **options):
    found = compare(models[a], models[b], [told_file(str(path))], names=(a, b), **{"n_resamples": 300, **options})
    return {row.figure: row for row in found.rows}, found


def called(folder, rows):
    classifier = load_classifier(folder, device="cpu")
    scores = scores_of(classifier, [AskedText(text, "") for text in rows])
    return [classifier.labels[i] for i in scores.argmax(1)]


def test_figures_are_those_of_scikit_learn_on_the_test_rows(folders, models, table):
    rows, found = run(models, table)
    test = [i for i in range(len(TEXTS)) if i % 4]
    truth = [LABELS[i % 3] for i in test]
    for side in "ab":
        said = called(folders[side], [TEXTS[i] for i in test])
        assert getattr(rows["accuracy"], side).value == pytest.approx(accuracy_score(truth, said))
        expected = f1_score(truth, said, average="macro", zero_division=0)
        assert getattr(rows["macro F1"], side).value == pytest.approx(expected)
    assert found.notes == [
        "labels.csv: of 38 rows 9 of other splits than test and 2 without text or label are left out.",
        "labels.csv: 9 of 27 rows have a label that b does not know; wrong for it.",
    ]


def test_the_interval_is_that_of_resampled_rows(folders, models, table):
    test = [i for i in range(len(TEXTS)) if i % 4]
    truth = np.array([LABELS[i % 3] for i in test])
    a, b = (np.array(called(folders[side], [TEXTS[i] for i in test])) for side in "ab")
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(2000):
        at = rng.integers(0, len(test), len(test))
        gains.append(np.mean(b[at] == truth[at]) - np.mean(a[at] == truth[at]))
    gain = run(models, table, n_resamples=4000)[0]["accuracy"].difference
    assert [gain.low, gain.high] == pytest.approx(np.percentile(gains, [2.5, 97.5]), abs=0.05)


def test_a_classifier_compared_with_itself_is_equal(models, table):
    assert {row.verdict for row in run(models, table, "a", "a")[0].values()} == {"equal"}


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_of_weighted_cells_is_that_of_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    truth, said = rng.integers(0, 4, (2, 6))
    weights = rng.integers(0, 3, (3, 6))
    weights[:, 0] = 1
    found = _macro_f1(weights.astype(float), truth, said, 5)
    expected = [f1_score(np.repeat(truth, w), np.repeat(said, w), average="macro", zero_division=0) for w in weights]
    assert found == pytest.approx(expected)


def test_scorers_are_compared_by_error_and_correlation(folders, models, scores):
    rows, _ = run(models, scores, "scorer", "scorer2")
    truth = np.array([i * 7 % 5 for i in range(len(TEXTS))])
    for side, name in zip("ab", ("scorer", "scorer2"), strict=True):
        said = scores_of(load_classifier(folders[name], device="cpu"), [AskedText(t, "") for t in TEXTS])[:, 0]
        assert getattr(rows["mean absolute error"], side).value == pytest.approx(np.abs(said - truth).mean(), rel=1e-5)
        assert getattr(rows["Spearman's correlation"], side).value == pytest.approx(spearmanr(said, truth)[0])
    assert rows["mean absolute error"].better == "lower"


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("a", "plain", "plain: no classifier head"),
        ("plain", "plain", "plain and plain: no classifier head"),
        ("a", "scorer", "scorer gives scores, the other one classes"),
        ("several", "several", "several gives several classes to a text; several gives several classes to a text"),
    ],
)
def test_what_cannot_be_compared_says_why(models, table, a, b, reason):
    rows, _ = run(models, table, a, b)
    assert {row.reason for row in rows.values()} == {reason}
    assert all(row.b is None and row.difference is None for row in rows.values())
    assert (rows["accuracy"].a is not None) if b == "plain" and a == "a" else ("accuracy" not in rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,label\na,b\n", "line 2: expected a number, as the models give scores, found 'b'"),
        ("text,label\na,nan\n", "line 2: expected a number, as the models give scores, found 'nan'"),
        ("text,label,split\na,1,train\n", "expected rows of the split test with text and label, found none among 1"),
        ("text,label\n ,1\n", "expected rows with text and label, found none among 1 rows"),
        ("text,class\na,1\n", "expected the columns text, label, found no label"),
        ('text,label\n"a,1\n', "line 2: a quote that opens in this row is never closed"),
    ],
)
def test_a_table_that_cannot_serve_is_refused(folders, tmp_path, text, told):
    path = tmp_path / "t.csv"
    path.write_text(text)
    arguments = [folders["scorer"], folders["scorer2"], "--on", f"labelled:{path}", "--device", "cpu"]
    assert_refused(commbert("compare", *arguments, "--json", tmp_path / "out"), tmp_path / "out", told)


def test_columns_tell_a_labelled_table_and_many_rows_are_taken_evenly(table, monkeypatch):
    assert told_file(str(table)) == ComparedFile("labelled", table)
    monkeypatch.setattr(comparedfiles, "MOST_LABELLED", 3)
    few = read_labelled_texts(table)
    assert [text.text for text in few.texts] == [TEXTS[1], TEXTS[18], TEXTS[35]]
    assert few.labels == [LABELS[1], LABELS[0], LABELS[2]]
    assert "24 of the others, evenly," in few.note


def test_the_command_prints_both_classifiers(folders, table, capsys):
    arguments = [folders["a"], folders["b"], "--on", f"labelled:{table}", "--device", "cpu", "--threads", "1"]
    assert commbert("compare", *arguments, "--json", "-").returncode == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["figure"] for row in told["rows"]] == ["accuracy", "macro F1"]


def test_a_class_that_is_no_text_is_refused(models, tmp_path, table):
    folder = write_classifier(tmp_path / "c", LABELS)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": ["x"], "1": "y", "2": "z"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="id2label: expected 3 different texts"):
        compare(models["a"], load_model(folder, device="cpu"), [ComparedFile("labelled", table)], n_resamples=100)
