import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import tiny
from commbert import tables
from commbert.errors import DataError
from commbert.rows import Rows
from commbert.training.data import DataPaths, PairData, evenly, read_training_data, read_words

KINDS = ("same_line", "english", "random_code", "frequency_matched")


def _write_pairs(path, rows):
    """Rows are (a, b, kind)."""
    columns = {
        "word_id_a": np.array([r[0] for r in rows], np.uint32),
        "word_id_b": np.array([r[1] for r in rows], np.uint32),
        "label": np.array([r[2] == "same_line" for r in rows], np.uint8),
        "kind": [r[2] for r in rows],
        "file_id": np.zeros(len(rows), np.uint32),
        "line_no": np.ones(len(rows), np.uint32),
    }
    tables.write(path, tables.PAIRS, columns, provenance={})


def _write_windows(path, *parts):
    """Write the tables of windows and the list that names them; each window is a file of its own."""
    tables_of = [path.with_suffix("") / f"{i}.parquet" for i in range(len(parts))]
    for i, (part, windows) in enumerate(zip(tables_of, parts, strict=True)):
        n = len(windows)
        ids = [np.array(w, np.int32) for w in windows]
        columns = {
            "file_id": np.arange(n, dtype=np.uint32) + 100 * i,
            **{c: np.zeros(n, np.uint32) for c in ("line_no", "first_line", "last_line", "first_token")},
            "input_ids": tables.list_column(tables.WINDOWS, "input_ids", ids),
            "n_tokens": np.array([len(w) for w in windows], np.uint16),
            "n_dropped_lines": np.zeros(n, np.uint8),
        }
        tables.write(part, tables.WINDOWS, columns, provenance={})
    tables.write_parts(path, tables.WINDOWS, tables_of)


@pytest.fixture
def paths(tmp_path):
    names = ("w.json", "vw.json", "p.parquet", "vp.parquet", "known.parquet", "words.parquet")
    found = DataPaths(*(tmp_path / n for n in names))
    _write_windows(found.windows, [[1, 2, 3], [4]], [], [[5, 6]])
    _write_windows(found.validation_windows, [[i] for i in range(10)])
    train = [(0, 1, "same_line"), (0, 3, "english"), (0, 2, "english"), (1, 2, "same_line"), (2, 0, "same_line")]
    _write_pairs(found.pairs, [*train, (2, 3, "english")])
    held_out = [(0, 2, "same_line"), (0, 3, "english"), (1, 3, "same_line"), (1, 3, "english")]
    _write_pairs(found.validation_pairs, [*held_out, (1, 0, "frequency_matched"), (2, 3, "same_line")])
    tiny.write_known(found.known, np.array([1, 2, (1 << 32) + 2], np.uint64))
    words = {
        "word_id": [0, 1, 2, 3],
        "word": ["a", "b", "c", "d"],
        "n_lines": [3, 2, 1, 0],
        "n_files": [1, 1, 1, 0],
        "token_ids": [[7], [8, 9], [10], [11]],
        "n_pieces_before": [1, 2, 1, 1],
        "in_english": [False] * 4,
        "in_code": [True] * 4,
    }
    tables.write(found.words, tables.WORDS, words, provenance={})
    return found


def _read(paths, validation_windows=100):
    limits = {"validation_windows": validation_windows, "validation_pairs": 100}
    return read_training_data(paths, **limits, validation_queries=10, validation_candidates=10, seed=0)


def test_windows_and_words_are_read_row_by_row(paths):
    data = _read(paths)
    assert [data.windows[i].tolist() for i in range(len(data.windows))] == [[1, 2, 3], [4], [5, 6]]
    assert [w.tolist() for w in data.words.rows([3, 1])] == [[11], [8, 9]]


def test_each_positive_has_the_negatives_that_follow_it(paths):
    pairs = _read(paths).pairs
    assert list(zip(pairs.anchor.tolist(), pairs.positive.tolist(), strict=True)) == [(0, 1), (1, 2), (2, 0)]
    assert [pairs.negatives[i].tolist() for i in range(3)] == [[3, 2], [], [3]]


def test_a_validation_negative_is_compared_with_its_own_positive(paths):
    data = _read(paths)
    assert [x.tolist() for x in data.validation_positive] == [[1], [3]]
    assert [x.tolist() for x in data.validation_negative] == [[1], [0]]


def test_words_of_the_code_but_keywords_look_for_novel_partners_of_positive_pairs(paths):
    # (0, 2) is known, 4 is a keyword, 5 is no word of the code.
    held_out = [(0, 2, "same_line"), (1, 3, "same_line"), (1, 6, "frequency_matched"), (2, 3, "same_line")]
    _write_pairs(paths.validation_pairs, [*held_out, (1, 4, "same_line"), (2, 5, "same_line")])
    words = {
        "word_id": [*range(7)],
        "word": ["a", "b", "c", "d", "return", "house", "e"],
        "n_lines": [3, 2, 1, 0, 0, 0, 0],
        "n_files": [1, 1, 1, 0, 0, 0, 0],
        "token_ids": [[7]] * 7,
        "n_pieces_before": [1] * 7,
        "in_english": [False] * 4 + [True] * 2 + [False],
        "in_code": [True] * 5 + [False] + [True],
    }
    tables.write(paths.words, tables.WORDS, words, provenance={})
    task = _read(paths).validation_retrieval
    found = {int(q): task.candidate[w].tolist() for q, w in zip(task.query, task.wanted, strict=True)}
    assert found == {1: [3], 2: [3], 3: [1, 2]}
    assert task.candidate.tolist() == [0, 1, 2, 3, 6]


def test_known_pairs_are_sorted_keys(paths):
    assert _read(paths).known.tolist() == [1, 2, (1 << 32) + 2]


def test_validation_windows_are_spread_evenly(paths):
    assert [int(w[0]) for w in _read(paths, validation_windows=4).validation_windows] == [0, 3, 6, 9]


def test_no_window_is_an_error_that_names_the_table(paths):
    _write_windows(paths.windows, [])
    with pytest.raises(DataError, match="expected at least one window"):
        _read(paths)


def test_a_table_in_the_place_of_another_is_refused(paths):
    paths.pairs.write_bytes(paths.known.read_bytes())
    with pytest.raises(DataError, match=r"p\.parquet: expected commbert\.table = pairs, found pairs/known"):
        _read(paths)


def test_a_list_of_other_files_in_the_place_of_one_of_windows_is_refused(paths):
    tables.write_parts(paths.windows, tables.PAIRS, [])
    with pytest.raises(DataError, match=r"w\.json: expected a list of windows"):
        _read(paths)


def test_a_part_that_was_changed_since_is_refused(paths):
    (paths.windows.with_suffix("") / "2.parquet").unlink()
    with pytest.raises(DataError, match=r"2\.parquet: missing, or not the file"):
        _read(paths)


@pytest.mark.parametrize(
    ("n", "wanted", "expected"), [(5, 2, [0, 4]), (3, 9, [0, 1, 2]), (0, 3, []), (1, 1, [0]), (5, 1, [0])]
)
def test_evenly_by_hand(n, wanted, expected):
    assert evenly(n, wanted).tolist() == expected


def test_words_have_their_token_ids(paths):
    words = read_words(paths.words)
    assert [words[i].tolist() for i in range(len(words))] == [[7], [8, 9], [10], [11]]


def test_texts_lie_behind_all_words_and_their_pairs_are_known(paths, tmp_path):
    given = replace(paths, texts=tmp_path / "texts.parquet", text_pairs=tmp_path / "text_pairs.parquet")
    texts = {"text_id": [0, 1, 2], "text": ["x", "y", "z"], "token_ids": [[20, 21], [22], [23, 24, 25]]}
    tables.write(given.texts, tables.TEXTS, texts, provenance={})
    rows = {"text_id_a": [2, 0, 1], "text_id_b": [0, 1, 0], "kind": ["acronym", "brief", "brief"]}
    tables.write(given.text_pairs, tables.TEXT_PAIRS, rows, provenance={})
    data, without = _read(given), _read(paths)
    expected = [[7], [8, 9], [10], [11], [20, 21], [22], [23, 24, 25]]
    assert [data.words[i].tolist() for i in range(len(data.words))] == expected
    assert list(zip(data.texts.anchor.tolist(), data.texts.positive.tolist(), strict=True)) == [(6, 4), (4, 5), (5, 4)]
    assert len(data.texts.negatives) == 3
    keys = [*without.known.tolist(), (4 << 32) + 5, (4 << 32) + 6]
    assert data.known.tolist() == keys == sorted(keys)
    assert (len(without.texts), len(without.words)) == (0, 4)
    assert given.given == [*paths.given, given.texts, given.text_pairs]


def test_no_pairs_are_no_pairs(paths):
    _write_pairs(paths.pairs, [])
    _write_pairs(paths.validation_pairs, [])
    data = _read(paths)
    assert (len(data.pairs), len(data.pairs.negatives)) == (0, 0)
    assert [x.tolist() for x in (*data.validation_positive, *data.validation_negative)] == [[]] * 4


def test_no_validation_window_is_none(paths):
    _write_windows(paths.validation_windows, [])
    assert _read(paths).validation_windows == []


def _pairs(*rows):
    a, b = np.array(rows, np.int64).reshape(-1, 2).T
    return PairData(a, b, Rows.end_to_end(np.empty(0, np.int64), np.zeros(len(rows) + 1, np.int64)))


def test_pmi_weights_by_hand():
    # 4 pairs, 8 ends: word 0 has 3, 1 has 2, 2 has 2, 3 has 1. {0, 1} stands there twice, in both orders.
    found = _pairs((0, 1), (1, 0), (0, 2), (2, 3)).pmi_weights
    # ln(2 * 4 * c / (n(a) n(b))): 8 * 2 / 6, the same, 8 / 6, 8 / 2.
    pmi = np.log([16 / 6, 16 / 6, 8 / 6, 4])
    assert found == pytest.approx(pmi / pmi.mean(), rel=1e-6)


def test_a_pair_that_says_less_than_chance_weighs_nothing():
    # 0 and 1 stand in nearly every pair and together in one: 2 * 13 / (7 * 7) < 1.
    rows = [(0, 1), *((0, i) for i in range(2, 8)), *((1, i) for i in range(8, 14))]
    found = _pairs(*rows).pmi_weights
    assert found[0] == 0.0
    assert found[1:] == pytest.approx(13 / 12, rel=1e-6)


def test_pmi_weights_have_a_mean_of_one_over_the_table_and_are_those_of_counting():
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, 31)
    rows = [tuple(rng.choice(30, 2, replace=False, p=p / p.sum()).tolist()) for _ in range(600)]
    found = _pairs(*rows).pmi_weights
    together, ends = Counter(tuple(sorted(r)) for r in rows), Counter(w for r in rows for w in r)
    pmi = [max(0.0, math.log(together[tuple(sorted(r))] / 600 / 2 / (ends[r[0]] * ends[r[1]] / 1200**2))) for r in rows]
    assert min(pmi) == 0.0
    assert found.mean() == pytest.approx(1.0, rel=1e-6)
    assert found == pytest.approx(np.array(pmi) / np.mean(pmi), rel=1e-5, abs=1e-7)


def test_no_pairs_have_no_weights():
    assert _pairs().pmi_weights.tolist() == []


def test_pairs_that_all_say_nothing_are_told():
    # A word with itself, as no table has it: ln(2 * 1 / (2 * 2)) < 0.
    with pytest.raises(DataError, match=r"expected pairs of a PMI above 0, found none\. Use none"):
        _ = _pairs((0, 0)).pmi_weights
