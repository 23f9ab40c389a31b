"""A labelled table is read as it is written, or refused with its line."""

import contextlib
import importlib.util
import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import finetune_case as case
import tiny
from commbert.errors import CommbertError, DataError, SettingsError, SourceError
from commbert.finetuning.examples import make_dataset, ordered
from commbert.finetuning.table import number, read_table
from commbert.settings.checking import section_from_json
from commbert.settings.config import load
from commbert.settings.finetune import FinetuneSettings
from commbert.tokenization.encoding import load_tokenizer

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture
def read(tmp_path, tokenizer):
    """Return a function that reads a table from its bytes."""

    def _read(data, name="t.csv", **changes):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return read_table(path, case.settings(**changes), tokenizer)

    return _read


@pytest.fixture
def divided(tmp_path, tokenizer):
    """Return a function that reads and divides a table from its rows."""

    def _divided(rows, header=("text", "label"), **changes):
        chosen = case.settings(**changes)
        path = case.write(tmp_path / "t.csv", rows, header)
        return make_dataset(read_table(path, chosen, tokenizer), chosen, "t.csv")

    return _divided


def texts_of(table, tokenizer):
    return [tokenizer.decode(list(ids)) for ids in table.tokens.rows(range(len(table)))]


@pytest.mark.parametrize("word", ["null", "NA", "nan", "NaN", "None", "inf", "#N/A", "true", "007", "1e5"])
def test_words_that_other_readers_take_for_something_else_are_labels_and_texts(read, tokenizer, word):
    table = read(f"text,label\n{word},{word}\nrlc,other\n")
    assert table.labels == [word, "other"]
    assert table.skipped["empty text"].n == table.skipped["empty label"].n == 0
    assert texts_of(table, tokenizer)[0].replace(" ", "") == word.lower()


def test_cells_with_commas_quotes_and_line_ends_are_one_text(read, tokenizer):
    table = read('text,label\n"a, ""b""\nc",x\nd,y\n')
    assert texts_of(table, tokenizer) == ['a, " b " c', "d"]
    assert list(table.line) == [2, 4]


def test_a_tab_separated_table_is_read_by_its_ending(read, tokenizer):
    assert texts_of(read("label\ttext\nx\ta, b\n", "t.tsv"), tokenizer) == ["a, b"]


def test_a_byte_order_mark_is_no_part_of_the_header(read):
    assert len(read(b"\xef\xbb\xbftext,label\na,x\n")) == 1


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ('text,label\na,x\n"b,y\nc,z\n', "line 3: a quote that opens in this row is never closed"),
        ("", "expected a header, found an empty file"),
        ("text,label,text\na,x,b\n", "line 1: expected each column once in the header, found 'text' twice"),
        ("a,x\nb,y\n", "line 1: expected a column 'text', found 'a', 'x'"),
        ("text,label\na,x,\n", "line 2: expected 2 cells as in the header, found 3"),
        ("text,label\na\n", "line 2: expected 2 cells as in the header, found 1"),
        (b"text,label\na,x\n\xff\xfe,y\n", "line 3: expected UTF-8"),
        (b"text,label\na\0,x\n", "line 2: expected text, found a NUL byte"),
        ("text,label\n,x\n \t,y\n", "found none among 2 rows"),
    ],
)
def test_what_cannot_be_read_without_guessing_is_refused_with_its_line(read, data, told):
    with pytest.raises((SourceError, DataError), match=re.escape(told)):
        read(data)


def test_a_table_of_another_kind_or_a_missing_one_is_refused(read, tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"ends in \.csv or \.tsv"):
        read("text,label\n", "t.xlsx")
    with pytest.raises(SourceError, match="No such file"):
        read_table(tmp_path / "none.csv", case.settings(), tokenizer)


def test_another_table_than_the_pinned_one_is_refused(read):
    with pytest.raises(SourceError, match="expected sha256 0000"):
        read("text,label\na,x\n", sha256="0" * 64)


def test_a_row_of_more_than_a_mebibyte_is_refused_with_its_line(read):
    with pytest.raises(DataError, match=r"line 3: expected a row of at most 1,048,576 characters, found 1,100,003"):
        read("text,label\na,x\n" + "b" * 1_100_000 + ",y\n")


def test_empty_texts_and_labels_are_skipped_counted_and_named_by_line(read):
    table = read("text,label\na,x\n,y\n  ,y\n\u200b,y\nb,\nc, y \n")
    assert table.n_rows == 6
    assert vars(table.skipped["empty text"]) == {"n": 3, "lines": [3, 4, 5]}
    assert vars(table.skipped["empty label"]) == {"n": 1, "lines": [6]}
    assert [table.labels[i] for i in table.label] == ["x", "y"]  # white space around a label is no part of it
    assert list(table.line) == [2, 7]


def test_a_long_text_is_cut_to_its_first_tokens_and_counted(read, tokenizer):
    table = read("text,label\n" + "a " * 9 + ",x\n" + "b " * 6 + ",y\n", max_length=8)
    assert table.n_cut == 1
    assert texts_of(table, tokenizer) == ["a a a a a a", "b b b b b b"]


def test_a_special_token_in_a_text_is_text(read):
    assert 4 not in read("text,label\n[MASK],x\n").tokens[0]


def test_rows_across_chunks_keep_their_labels_and_lines(read, tokenizer, monkeypatch):
    monkeypatch.setattr("commbert.finetuning.table._CHUNK_ROWS", 3)
    table = read("text,label\n" + "".join(f"w{i},c{i % 4}\n" for i in range(11)))
    assert texts_of(table, tokenizer) == [f"w{i}" for i in range(11)]
    assert [table.labels[i] for i in table.label] == [f"c{i % 4}" for i in range(11)]
    assert list(table.line) == list(range(2, 13))


def test_labels_are_ordered_by_number_or_by_text():
    assert ordered(["10", "2", "1.5", "-3"]) == ("-3", "1.5", "2", "10")
    assert ordered(["10", "2", "b"]) == ("10", "2", "b")
    assert ordered(["1.0", "1"]) == ("1", "1.0")


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "1e999", "", "0x1", "١", "1,5", " 1"])
def test_text_that_is_no_decimal_number_is_none(text):
    assert number(text) is None


def test_decimal_numbers_are_read():
    assert [number(t) for t in ("3", "-0.5", "+1e2", ".5", "2.")] == [3.0, -0.5, 100.0, 0.5, 2.0]


@pytest.mark.parametrize("seed", range(4))
def test_every_class_has_its_share_in_every_split(divided, seed):
    rows = [(f"a{i}", "x" if i % 4 else "y") for i in range(200)]
    data = divided(rows, seed=seed)
    assert data.classes == ("x", "y")
    assert data.accounting["rows"] == {"train": 160, "validation": 20, "test": 20}
    assert data.accounting["rows_of_class"]["y"] == {"train": 40, "validation": 5, "test": 5}
    lines = [line for s in data.splits.values() for line in s.line]
    assert sorted(lines) == list(range(2, 202))


def test_a_split_depends_on_the_seed_alone(divided):
    rows = case.texts()
    lines = [list(divided(rows, seed=seed).splits["test"].line) for seed in (1, 1, 2)]
    assert lines[0] == lines[1] != lines[2]


def test_targets_stay_with_their_rows(divided):
    rows = case.texts()
    data = divided(rows)
    for examples in data.splits.values():
        for target, line in zip(examples.target, examples.line, strict=True):
            assert data.classes[target] == rows[line - 2][1]


SPLIT = ("text", "label", "split")
GIVEN = {"split": {"column": "split"}}


def test_a_split_column_is_followed(divided):
    rows = [("a", "x", "train"), ("b", "y", "test"), ("c", "y", "train"), ("d", "x", "validation")]
    data = divided(rows, SPLIT, **GIVEN)
    assert {name: list(s.line) for name, s in data.splits.items()} == {"train": [2, 4], "validation": [5], "test": [3]}


def test_without_validation_rows_in_the_column_training_gives_some(divided):
    rows = [(f"a{i}", "xy"[i % 2], "test" if i >= 40 else "train") for i in range(50)]
    data = divided(rows, SPLIT, **GIVEN)
    assert data.accounting["rows"] == {"train": 36, "validation": 4, "test": 10}
    assert min(data.splits["test"].line) == 42
    assert "validation drawn of its training rows" in data.accounting["split"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", "x", "dev")], "line 2: expected the split train, validation, test, found 'dev'"),
        ([("a", "x", "train"), ("b", "y", "train")], "expected rows of the split test in 'split'"),
        ([("a", "x", "train"), ("b", "y", "train"), ("b", "z", "test"), ("b", "x", "validation")], "'z' (line 4)"),
    ],
)
def test_a_split_column_that_makes_no_sense_is_refused(divided, rows, told):
    with pytest.raises(DataError, match=re.escape(told)):
        divided(rows, SPLIT, **GIVEN)


def test_unknown_classes_of_the_test_rows_are_skipped_and_counted_when_asked(divided, caplog):
    logging.getLogger("commbert").propagate = True
    rows = [("a", "x", "train"), ("b", "y", "train"), ("c", "a", "test"), ("d", "y", "test"), ("e", "x", "validation")]
    with caplog.at_level(logging.WARNING, "commbert"):
        data = divided(rows, SPLIT, unknown_labels="skip", **GIVEN)
    assert data.classes == ("x", "y")
    assert data.accounting["unknown_labels_skipped"] == 1
    assert list(data.splits["test"].line) == [5]
    assert list(data.splits["test"].target) == [1]
    assert "'a' (line 4)" in caplog.text


def test_one_class_is_refused(divided):
    with pytest.raises(
        DataError, match=r"expected two classes or more in the column 'label', found only 'x' in 3 rows"
    ):
        divided([("a", "x"), ("b", "x"), ("c", "x")])


def test_a_class_with_too_few_rows_for_every_split_is_named_with_its_lines(divided):
    rows = [*((f"a{i}", "xy"[i % 2]) for i in range(20)), ("b", "rare")]
    with pytest.raises(DataError, match=r"at least 3 rows of every class.* found 1 of 'rare' in line 22\."):
        divided(rows)


def test_a_table_too_small_for_every_split_is_refused(divided):
    with pytest.raises(DataError, match="enough rows for 3 classes in every split"):
        divided([(f"a{i}", "xyz"[i % 3]) for i in range(9)], split={"validation": 0.45, "test": 0.45})


def test_a_column_of_free_text_is_no_column_of_classes(divided):
    with pytest.raises(DataError, match="at most 1,000 classes"):
        divided([(f"a{i}", f"b{i // 3}") for i in range(3003)])


def test_classes_that_are_spelt_alike_stay_apart_with_a_warning(divided, caplog):
    logging.getLogger("commbert").propagate = True
    with caplog.at_level(logging.WARNING, "commbert"):
        data = divided([(f"a{i}", ("Yes", "yes", "no")[i % 3]) for i in range(30)])
    assert data.classes == ("Yes", "no", "yes")
    assert "'Yes', 'yes' are spelt alike" in caplog.text


def test_scores_are_numbers_of_the_table(divided):
    data = divided([(f"a{i}", f"{i % 5 + 1}.5") for i in range(50)], task="scoring")
    assert data.classes == ()
    for examples in data.splits.values():
        assert np.array_equal(examples.target, (examples.line - 2) % 5 + 1.5)


@pytest.mark.parametrize("word", ["NA", "nan", "inf", "five"])
def test_a_score_that_is_no_number_is_named_by_its_line(divided, word):
    with pytest.raises(DataError, match=f"line 4: expected a number in 'label', found '{word}'"):
        divided([("a", 1), ("b", 2), ("c", word), ("d", word)], task="scoring")


def test_equal_scores_are_refused(divided):
    with pytest.raises(DataError, match="expected different scores, found 3 in every row"):
        divided([("a", 3), ("b", 3.0)], task="scoring")


def test_texts_that_stand_in_two_splits_or_with_two_labels_are_counted(divided):
    rows = [
        ("same", "x", "train"),
        ("same", "y", "test"),
        ("other", "y", "train"),
        ("own", "x", "test"),
        ("other", "y", "validation"),
    ]
    told = divided(rows, SPLIT, **GIVEN).accounting
    assert told["test_texts_also_in_training"] == 1
    assert told["texts_with_several_labels"] == 1


def test_damaged_tables_give_rows_or_one_message(read):
    whole = 'text,label\n"a, ""b""",x\nc\u00fc,y\n"d\ne",x\nf,y\n'.encode()
    rng = np.random.default_rng([3, 1])
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.choice(np.frombuffer(b'",\n\r\0\xff x', np.uint8))
        with contextlib.suppress(CommbertError):
            table = read(bytes(data))
            assert table.n_rows == len(table) + sum(s.n for s in table.skipped.values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"best_metric": "mae"},
            "best_metric: expected one of macro_f1, accuracy, weighted_f1, loss for classification",
        ),
        ({"task": "scoring", "class_weights": "balanced"}, "scores have no classes"),
        ({"split": {"validation": 0.5, "test": 0.5}}, "at most 0.9 for validation and test together, found 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, told):
    import json

    with pytest.raises(SettingsError, match=re.escape(told)):
        section_from_json(FinetuneSettings, json.dumps(changes), where="finetune")


def test_the_metric_is_that_of_the_task_where_none_is_named():
    assert FinetuneSettings().metric == "macro_f1"
    assert FinetuneSettings(task="scoring").metric == "mae"


def config_with(**entry):
    raw = {
        "corpus": {"sources": [{"kind": "path", "name": "t", "path": "t"}]},
        "model": {"base": {"kind": "path", "path": "b"}},
        "finetune": {"mine": {"table": "t.csv", **entry}, "gone": None},
    }
    return load(raw)


def test_an_entry_taken_away_by_null_is_gone():
    assert list(config_with().finetune) == ["mine"]


@pytest.mark.parametrize("model", ["base", "final", "models/mine"])
def test_the_encoder_is_the_base_a_run_or_a_folder(model):
    assert config_with(model=model).finetune["mine"].model == model


def test_an_encoder_that_is_nothing_of_these_is_refused():
    with pytest.raises(SettingsError, match=r"finetune\.mine\.model: expected base, a name of runs \(final\)"):
        config_with(model="finl")


def test_paths_are_no_settings_of_the_stage():
    told = config_with(model="final").finetune["mine"].of_stage().as_json()
    assert "t.csv" not in told
    assert '"model"' not in told


@pytest.fixture(scope="module")
def sample():
    spec = importlib.util.spec_from_file_location("make_layers", REPO / "resources/finetune/make_layers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sample_set_is_what_its_script_writes(sample, tmp_path):
    sample.write(tmp_path / "layers.csv")
    assert (tmp_path / "layers.csv").read_bytes() == (REPO / "resources/finetune/layers.csv").read_bytes()


def test_the_sample_set_has_five_hundred_rows_or_more_of_five_equal_classes(sample):
    counts = Counter(label for _, label, _ in sample.rows())
    assert len(counts) == 5
    assert set(counts.values()) == {120}


def test_no_text_of_the_sample_set_names_a_class(sample):
    names = re.compile(
        r"\b(phy|mac|rlc|pdcp|rrc|physical|medium access|radio (link|resource) control|convergence)", re.I
    )
    assert [text for text, _, _ in sample.rows() if names.search(text)] == []


def test_the_test_sentences_of_the_sample_set_stand_in_no_other_split(sample):
    plain = {}
    for text, _, split in sample.rows():
        for templates in sample.TEMPLATES.values():
            for template in templates:
                pattern = ".+".join(re.escape(part) for part in re.split(r"\{\w+\}", template))
                if re.search(pattern, text, re.I):
                    plain.setdefault(template, set()).add(split)
    assert len(plain) == sum(map(len, sample.TEMPLATES.values()))
    assert all(len(splits) == 1 for splits in plain.values())
