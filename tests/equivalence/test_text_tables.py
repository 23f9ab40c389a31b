"""A table of Chinese questions, and one without word pairs, from the file to the report."""

import json
import re
from pathlib import Path

import pytest

import text_case
from commbert import tables
from commbert.artifacts import read_json
from commbert.errors import TrainingError
from commbert.settings.words import WordsSettings
from commbert.tokenization.encoding import cut_alike


def source():
    return text_case.table_source(text_case.QA, "{question}\n{answer_text}", split_column="split")


def run(at: Path, **training):
    """Run everything on the questions."""
    characters = text_case.characters_of([text_case.QA.read_text(encoding="utf-8")])
    raw = text_case.write_base(at / "raw", characters)
    settings = text_case.settings_of(source())
    return text_case.run_all(at, settings, raw, **training), settings


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    at = tmp_path_factory.mktemp("chinese")
    data, settings = run(at, epochs=8)
    return at, text_case.report_of(at, data, settings)


def validations(at):
    events = map(json.loads, (at / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [event for event in events if event["event"] == "validation"]


def test_the_validation_loss_falls_and_is_measured_after_each_epoch(chinese):
    at, files = chinese
    losses = [event["mlm_loss"] for event in validations(at)]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.1
    assert len(read_json(files["r.json"])["validations"]) == 8


def test_what_was_learnt_is_compared_with_the_model_before_on_held_out_rows(chinese):
    _, files = chinese
    report = read_json(files["r.json"])
    row = next(row for row in report["rows"] if row["key"] == "mlm_loss")
    assert row["cells"]["final"]["value"] < row["cells"]["base"]["value"]
    assert row["cells"]["base"]["difference"]["high"] < 0
    assert report["corpus"]["split_by"] == "column"
    assert {name: split["files"] for name, split in report["corpus"]["splits"].items()} == {
        "train": 119,
        "validation": 42,
        "test": 7,
    }


def test_each_row_is_one_window(chinese):
    at, _ = chinese
    summary = read_json(at / "windows" / "summary.json")["splits"]
    assert {name: split["windows"] for name, split in summary.items()} == {"train": 119, "validation": 42, "test": 7}
    assert all(split["windows_with_dropped_lines_pct"] == 0 for split in summary.values())


def test_the_report_names_frequent_characters_and_says_what_was_not_measured(chinese):
    _, files = chinese
    text = files["r.md"].read_text(encoding="utf-8")
    assert "Not measured, for the held-out text" in text
    assert "function&#95;mrr" in text
    assert "| AUC against frequency-matched code words" in text
    assert len(read_json(files["r.json"])["neighbours"]) == 12
    assert not re.search(r"\bnan\b", text)


def test_the_head_of_the_untouched_base_model_is_measured_on_the_same_windows(chinese):
    at, _ = chinese
    # Its file is written otherwise than that of the tokenizer which was kept.
    assert (at / "base" / "tokenizer.json").read_bytes() != (at / "tokenizer/tokenizer/tokenizer.json").read_bytes()
    assert cut_alike(at / "base", at / "tokenizer" / "tokenizer")
    assert read_json(at / "base_evaluation" / "evaluation.json")["mlm_reason"] == ""


def without_pairs(at, **training):
    characters = text_case.characters_of([text_case.QA.read_text(encoding="utf-8")])
    raw = text_case.write_base(at / "raw", characters)
    words = WordsSettings(pattern="^.", min_chars=1, text="all", english_words=200)
    settings = text_case.settings_of(source().model_copy(update={"template": "{question}{answer_text}"}), words=words)
    return text_case.run_all(at, settings, raw, **training), settings


def test_a_corpus_without_pairs_of_words_goes_from_the_table_to_the_report(tmp_path):
    data, settings = without_pairs(tmp_path)
    assert all(tables.read(path, tables.PAIRS).num_rows == 0 for path in data.pairs.splits.values())
    files = text_case.report_of(tmp_path, data, settings)
    for name in ("r.md", "r.html"):
        text = files[name].read_text(encoding="utf-8")
        assert "There are no held-out pairs of words." in text
        assert "frequency alone reaches" not in text
        assert re.search(r"Effective rank(?: \| [0-9.]+ \| [0-9.]+ \||</th><td class=\"n\">[0-9.]+</td><td)", text)
    figures = read_json(tmp_path / "final" / "evaluation.json")["figures"]
    assert figures["auc_english"] is None
    assert figures["mlm_loss"]["value"] > 0
    assert [row["values"]["final"] is None for row in read_json(files["r.json"])["geometry"]].count(True) == 1


def test_a_contrastive_loss_without_any_pairs_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"contrastive has a weight, found no pairs .* Set it to 0"):
        without_pairs(tmp_path, objectives={"mlm": 0.5, "contrastive": 0.5})
