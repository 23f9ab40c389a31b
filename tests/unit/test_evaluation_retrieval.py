import numpy as np
import pytest
import torch

from commbert import tables
from commbert.evaluation import retrieval
from commbert.evaluation.retrieval import Partners, held_out_partners, retrieve
from commbert.known import pair_keys

torch.set_num_threads(1)
NOTHING = np.empty(0, np.uint64)


def _unit(n, h=8, seed=0):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(n, h)).astype(np.float32))
    return torch.nn.functional.normalize(rows, dim=-1)


def _brute(partners, vectors, candidates, known, at):
    """Sort the candidates for each query in plain Python."""
    pairs = {(int(k >> np.uint64(32)), int(k & np.uint64(0xFFFFFFFF))) for k in known}
    place = {int(c): i for i, c in enumerate(candidates)}
    reciprocal, recall = [], {k: [] for k in at}
    for query, wanted in zip(partners.query.tolist(), partners.partners, strict=True):
        others = [c for c in place if c != query and (min(c, query), max(c, query)) not in pairs]
        others.sort(key=lambda c: -float(vectors[place[c]] @ vectors[place[query]]))
        ranks = sorted(others.index(w) + 1 for w in wanted.tolist())
        reciprocal.append(1 / ranks[0])
        for k in at:
            recall[k].append(sum(r <= k for r in ranks) / min(k, len(ranks)))
    return reciprocal, recall


def test_retrieval_is_sorting_with_known_pairs_taken_out(monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", 7)
    rng = np.random.default_rng(1)
    candidates = np.sort(rng.choice(500, 60, replace=False))
    known = np.unique(pair_keys(*rng.choice(candidates, (2, 300))))
    query = candidates[:20]
    wanted = []
    for q in query:
        free = [c for c in candidates if c != q and pair_keys(np.array([q]), np.array([c]))[0] not in known]
        wanted.append(np.sort(rng.choice(free, rng.integers(1, 6), replace=False)))
    partners = Partners(query, wanted)
    vectors = _unit(60)
    found = retrieve(partners, np.arange(20), vectors, candidates, known)
    reciprocal, recall = _brute(partners, vectors, candidates, known, (1, 5, 10))
    assert found.reciprocal_rank == pytest.approx(reciprocal, rel=1e-12)
    assert {k: v.tolist() for k, v in found.recall.items()} == recall
    assert 0.01 < found.reciprocal_rank.mean() < 0.9


def _line(cosines):
    """Return unit vectors of the plane whose cosine to the first, the query, is given."""
    c = torch.tensor([1.0, *cosines])
    return torch.stack([c, (1 - c**2).sqrt()], dim=1)


def test_ranks_by_hand():
    # Word 0 asks; 1 is nearest, 2 and 3 follow. Its partners are 2 and 3.
    partners = Partners(np.array([0]), [np.array([2, 3])])
    found = retrieve(partners, np.array([0]), _line([0.9, 0.5, 0.1]), np.arange(4), NOTHING, at=(1, 2, 3))
    assert found.reciprocal_rank.tolist() == [0.5]
    assert {k: v.tolist() for k, v in found.recall.items()} == {1: [0.0], 2: [0.5], 3: [1.0]}


def test_a_known_pair_does_not_stand_in_the_way():
    partners = Partners(np.array([0]), [np.array([2, 3])])
    known = pair_keys(np.array([0]), np.array([1]))
    found = retrieve(partners, np.array([0]), _line([0.9, 0.5, 0.1]), np.arange(4), known)
    assert found.reciprocal_rank.tolist() == [1.0]


def test_only_the_chosen_queries_are_asked():
    partners = Partners(np.array([0, 1, 2]), [np.array([3])] * 3)
    found = retrieve(partners, np.array([2]), _unit(4), np.arange(4), NOTHING)
    assert found.query.tolist() == [2]
    assert len(found.reciprocal_rank) == 1


def test_a_model_that_gives_every_word_one_vector_finds_nothing():
    # 100 equal scores: a partner stands at rank 50 on average, not at rank 1.
    partners = Partners(np.array([0]), [np.array([7])])
    found = retrieve(partners, np.array([0]), torch.ones(101, 1), np.arange(101), NOTHING)
    assert found.reciprocal_rank[0] < 0.1
    assert found.recall[1].tolist() == [0.0]


@pytest.fixture
def line_words(tmp_path):
    """File 0: training; file 1: lines {0, 1, 2} and {2, 3}."""
    rows = [np.array(r, np.uint32) for r in ([0, 3], [0, 1, 2], [2, 3])]
    columns = {
        "file_id": np.array([0, 1, 1], np.uint32),
        "line_no": np.array([1, 1, 2], np.uint32),
        "word_ids": tables.list_column(tables.LINE_WORDS, "word_ids", rows),
    }
    tables.write(tmp_path / "line_words.parquet", tables.LINE_WORDS, columns, provenance={})
    return tmp_path / "line_words.parquet"


def _partners(line_words, usable=(True, True, True, True), known=NOTHING):
    found = held_out_partners(line_words, np.array([False, True]), np.array(usable), known)
    return {int(q): p.tolist() for q, p in zip(found.query, found.partners, strict=True)}


def test_partners_are_the_words_of_held_out_lines(line_words):
    assert _partners(line_words) == {0: [1, 2], 1: [0, 2], 2: [0, 1, 3], 3: [2]}


def test_partners_known_from_training_are_left_out_both_ways(line_words):
    known = pair_keys(np.array([2]), np.array([3]))
    assert _partners(line_words, known=known) == {0: [1, 2], 1: [0, 2], 2: [0, 1]}


def test_keywords_are_no_partners(line_words):
    assert _partners(line_words, usable=(True, True, False, True)) == {0: [1], 1: [0]}


def _partners_row_by_row(path, in_split, usable, known):
    """Collect the partners of each word in sets, line by line."""
    pairs = set(known.tolist())
    found = {}
    for row in tables.read(path, tables.LINE_WORDS).to_pylist():
        if in_split[row["file_id"]]:
            words = [w for w in row["word_ids"] if usable[w]]
            for w in words:
                found.setdefault(w, set()).update(words)
    out = {}
    for w in sorted(found):
        others = [o for o in sorted(found[w] - {w}) if (min(w, o) << 32 | max(w, o)) not in pairs]
        if others:
            out[w] = others
    return out


@pytest.mark.parametrize("at_once", [1, 7, 100, 2**21])
def test_partners_are_those_collected_line_by_line(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(retrieval, "_PAIRS_AT_ONCE", at_once)
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    rng = np.random.default_rng(3)
    rows = [np.unique(rng.integers(0, 80, rng.integers(0, 12))).astype(np.uint32) for _ in range(400)]
    columns = {
        "file_id": np.sort(rng.integers(0, 30, len(rows))).astype(np.uint32),
        "line_no": np.arange(len(rows), dtype=np.uint32),
        "word_ids": tables.list_column(tables.LINE_WORDS, "word_ids", rows),
    }
    path = tmp_path / "t.parquet"
    tables.write(path, tables.LINE_WORDS, columns, provenance={})
    in_split, usable = rng.random(30) < 0.5, rng.random(80) < 0.8
    known = np.unique(pair_keys(*rng.integers(0, 80, (2, 300))))
    found = held_out_partners(path, in_split, usable, known)
    expected = _partners_row_by_row(path, in_split, usable, known)
    assert {int(q): p.tolist() for q, p in zip(found.query, found.partners, strict=True)} == expected
    assert found.query.tolist() == sorted(expected)
    assert {found.query.dtype, *(p.dtype for p in found.partners)} == {np.dtype(np.int64)}
    assert len(expected) > 50


def test_a_split_without_lines_has_no_partners(line_words):
    found = held_out_partners(line_words, np.array([False, False]), np.ones(4, bool), NOTHING)
    assert (len(found.query), found.partners) == (0, [])
