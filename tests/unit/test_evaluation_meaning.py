import csv
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from commbert.errors import DataError
from commbert.evaluation import meaning
from commbert.evaluation.bootstrap import resample_weights
from commbert.evaluation.general import read_sentences
from commbert.evaluation.meaning import (
    Similarity,
    acronym_ranks,
    opposites_rate,
    read_opposites,
    read_similarity,
    read_terms,
    similarity_correlation,
)

torch.set_num_threads(1)
RESOURCES = Path(__file__).parents[2] / "resources" / "evaluation"
TERMS, OPPOSITES, SIMILARITY, TEXT = (
    RESOURCES / name for name in ("terms_3gpp.csv", "opposites.csv", "general_similarity.csv", "general_text.txt")
)
NOT_GENERAL = """
network signal channel radio carrier antenna frequency bandwidth packet protocol uplink downlink cell bearer
handover mobile telephone phone smartphone modem wireless transmit transmitter transmission receiver cable fibre
satellite internet web website online email digital electronic code coding software hardware program programming
programmer computer laptop processor server client function variable class compiler compile bug debug data database
file folder bit byte buffer index pointer string array matrix loop thread kernel memory cache queue stack heap hash
token parser syntax script algorithm api interface input output module node router switch gateway port socket url
password user username login log timer interrupt register scheduler scheduling encoder decoder modulation
demodulation sampling spectrum noise interference throughput latency telecom subscriber operator roaming sim
terminal slot frame subframe symbol beam
"""


# The resources.


def test_the_terms_are_many_and_each_stands_once():
    terms = read_terms(TERMS)
    assert len(terms) >= 170
    assert len({a.lower() for a, _ in terms}) == len({e for _, e in terms}) == len(terms)
    assert all(e == e.lower() == " ".join(e.split()) and len(e) > len(a) for a, e in terms)
    assert all(2 <= len(a) <= 10 and any(map(str.isupper, a)) for a, _ in terms)


def test_the_letters_of_a_term_stand_in_its_expansion_in_order():
    # A typing error in either side would show here. An x stands for "trans" or "everything", a 2 for "to".
    for acronym, expansion in read_terms(TERMS):
        letters = iter(expansion)
        wanted = [c for c in acronym.lower() if c.isalnum()]
        if acronym in ("DTX", "DRX", "V2X", "D2D"):
            wanted = [c for c in wanted if c not in "x2"]
        assert all(c in letters for c in wanted), (acronym, expansion)


@pytest.mark.parametrize(
    ("acronym", "expansion"),
    [
        ("HARQ", "hybrid automatic repeat request"),
        ("PDCP", "packet data convergence protocol"),
        ("SDAP", "service data adaptation protocol"),
        ("RRC", "radio resource control"),
        ("NAS", "non-access stratum"),
        ("AMF", "access and mobility management function"),
        ("LDPC", "low density parity check"),
        ("ACLR", "adjacent channel leakage ratio"),
        ("IAB", "integrated access and backhaul"),
    ],
)
def test_the_terms_are_spread_over_the_fields(acronym, expansion):
    assert (acronym, expansion) in read_terms(TERMS)


def test_the_opposites_are_many():
    assert len(read_opposites(OPPOSITES)) >= 30
    assert {("ul", "dl"), ("tx", "rx"), ("enc", "dec"), ("min", "max")} <= set(read_opposites(OPPOSITES))


def test_the_similarity_pairs_are_evenly_graded():
    grades = Counter(row.relation for row in read_similarity(SIMILARITY))
    assert sum(grades.values()) >= 120
    assert set(grades) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert max(grades.values()) <= 1.1 * min(grades.values())


def _words(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def test_shared_words_do_not_give_the_grade():
    rows = read_similarity(SIMILARITY)
    shared = [len(_words(r.a) & _words(r.b)) / len(_words(r.a) | _words(r.b)) for r in rows]
    assert abs(spearmanr(shared, [r.relation for r in rows]).statistic) < 0.2
    both = [len(r.a) + len(r.b) for r in rows]
    assert abs(spearmanr(both, [r.relation for r in rows]).statistic) < 0.2


def test_every_topic_has_every_grade():
    rows = read_similarity(SIMILARITY)
    for at in range(0, len(rows), 5):
        assert [r.relation for r in rows[at : at + 5]] == [4, 3, 2, 1, 0], rows[at]


def test_general_texts_hold_no_word_of_telecom_or_programming():
    acronyms = {a.lower() for a, _ in read_terms(TERMS) if len(a) > 3}
    texts = [t for row in read_similarity(SIMILARITY) for t in (row.a, row.b)] + read_sentences(TEXT)
    assert len(texts) > 300
    banned = acronyms.union(NOT_GENERAL.split())
    for text in texts:
        found = _words(text)
        found |= {w.removesuffix("s") for w in found}
        assert not found & banned, text


def test_the_sentences_are_plain_and_of_12_to_25_words():
    sentences = read_sentences(TEXT)
    assert len(sentences) >= 80
    assert all(12 <= len(s.split()) <= 25 and s[0].isupper() and s[-1] == "." for s in sentences)


# The readers.


def _refused(read, tmp_path, text, *expected):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for part in expected:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ":1: expected the header acronym,expansion"),
        ("acronym,meaning\nUE,user equipment\n", "found 'acronym,meaning'"),
        ("acronym,expansion,more\nUE,user equipment,x\n", ":1: expected the header"),
        ("acronym,expansion\n", "at least one row"),
        ("acronym,expansion\nUE,user equipment\nRB\n", ":3: expected 2 cells (acronym,expansion)"),
        ("acronym,expansion\nUE,user equipment\n\n", ":3: expected 2 cells"),
        ("acronym,expansion\nUE, \n", ":2: expected 2 cells"),
        ("acronym,expansion\nUE,user,equipment\n", ":2: expected 2 cells"),
        (
            "acronym,expansion\nUE,user equipment\nue,user entity\n",
            ":3: expected each entry once, found 'acronym ue' on",
        ),
        ("acronym,expansion\nUE,user equipment\nUX,User Equipment\n", "on line 2 too"),
        (b"acronym,expansion\nUE,\xff\n", "UTF-8"),
        ('acronym,expansion\nUE,"user equipment\n', "expected a CSV table"),
    ],
)
def test_a_wrong_table_of_terms_is_refused_by_file_and_line(tmp_path, text, expected):
    _refused(read_terms, tmp_path, text, expected)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: expected a CSV table in UTF-8"):
        read_terms(tmp_path / "none.csv")


def test_terms_are_read_as_written(tmp_path):
    (tmp_path / "t.csv").write_text('acronym,expansion\n UE ,"user equipment, any"\nue2,b\n', encoding="utf-8")
    assert read_terms(tmp_path / "t.csv") == [("UE", "user equipment, any"), ("ue2", "b")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("ul,ul", ":3: expected two different parts"),
        ("u_l,dl", ":3: expected a part of lower-case letters, found 'u_l'"),
        ("dl,tx2", "found 'tx2'"),
        ("Tx,rx", "found 'Tx'"),
        ("b,a", ":3: expected each entry once, found 'a and b' on line 2 too"),
    ],
)
def test_wrong_opposites_are_refused(tmp_path, row, expected):
    _refused(read_opposites, tmp_path, f"a,b\na,b\n{row}\n", expected)


def test_a_part_may_have_several_opposites(tmp_path):
    (tmp_path / "o.csv").write_text("a,b\nstart,stop\nstart,end\n", encoding="utf-8")
    assert read_opposites(tmp_path / "o.csv") == [("start", "stop"), ("start", "end")]


@pytest.mark.parametrize("relation", ["nan", "-1", "4.5", "two", "0.3", "inf"])
def test_a_relation_is_a_number_of_0_to_4_in_halves(tmp_path, relation):
    _refused(read_similarity, tmp_path, f"a,b,relation\nx,y,0.5\nz,y,{relation}\n", ":3: expected a relation", relation)


def test_similarity_rows_are_read_and_come_once(tmp_path):
    (tmp_path / "s.csv").write_text("a,b,relation\nx y,z,3.5\nz,w,0\n", encoding="utf-8")
    assert read_similarity(tmp_path / "s.csv") == [Similarity("x y", "z", 3.5), Similarity("z", "w", 0.0)]
    _refused(read_similarity, tmp_path, "a,b,relation\nx,y,1\nY,x,2\n", ":3: expected each entry once")


def test_sentences_come_once_without_empty_lines(tmp_path):
    _refused(read_sentences, tmp_path, "One is here.\n\nTwo.\n", ":2: expected a sentence")
    _refused(
        read_sentences, tmp_path, "One is here.\nTwo.\nOne is here.\n", ":3: expected each sentence once", "line 1"
    )
    _refused(read_sentences, tmp_path, "", "at least one sentence")
    _refused(read_sentences, tmp_path, b"\xff\xfe\n", "UTF-8")


def test_the_resources_are_what_a_plain_csv_reader_gives():
    with TERMS.open(encoding="utf-8", newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == read_terms(TERMS)


# Acronyms.


def _embedder(vectors):
    def embed(texts):
        return torch.nn.functional.normalize(torch.tensor([vectors[t] for t in texts], dtype=torch.float32), dim=-1)

    return embed


def _random_embedder(texts, seed=0, h=4):
    rng = np.random.default_rng(seed)
    return _embedder({t: rng.normal(size=h).tolist() for t in sorted(texts)})


def test_acronym_ranks_by_hand():
    vectors = {"A": [1, 0], "B": [0, 1], "alpha": [1, 0.1], "beta": [1, 0.2]}
    found = acronym_ranks(_embedder(vectors), [("A", "alpha"), ("B", "beta")])
    assert found.to_expansion.reciprocal_rank.tolist() == [1.0, 1.0]
    # Both expansions are nearer to A: beta finds B second.
    assert found.to_acronym.reciprocal_rank.tolist() == [1.0, 0.5]
    assert found.to_acronym.recall_at_1.tolist() == [1.0, 0.0]


def _brute_reciprocal(embed, pairs, given, sought):
    candidates = sorted({p[sought] for p in pairs})
    out = []
    for pair in pairs:
        right = {p[sought] for p in pairs if p[given] == pair[given]} - {pair[sought]}
        listed = [c for c in candidates if c not in right]
        query = embed([pair[given]])[0]
        listed.sort(key=lambda c: -float(embed([c])[0] @ query))
        out.append(1 / (listed.index(pair[sought]) + 1))
    return out


def test_acronym_ranks_are_sorting_with_other_right_answers_taken_out(monkeypatch):
    monkeypatch.setattr(meaning, "_BLOCK", 4)
    rng = np.random.default_rng(3)
    pairs = sorted({(f"A{a}", f"e{e}") for a, e in rng.integers(0, 12, (30, 2))})
    assert len({a for a, _ in pairs}) < len(pairs)
    embed = _random_embedder({t for pair in pairs for t in pair})
    found = acronym_ranks(embed, pairs)
    for ranks, given in ((found.to_expansion, 0), (found.to_acronym, 1)):
        brute = _brute_reciprocal(embed, pairs, given, 1 - given)
        assert ranks.reciprocal_rank == pytest.approx(brute, rel=1e-12)
        assert ranks.recall_at_1.tolist() == [float(r == 1) for r in brute]
        assert 0.1 < np.mean(brute) < 0.9


def test_one_vector_for_everything_finds_no_acronym():
    found = acronym_ranks(lambda texts: torch.ones(len(texts), 1), [(f"A{i}", f"e{i}") for i in range(101)])
    assert found.to_expansion.reciprocal_rank == pytest.approx(1 / 51)
    assert not found.to_acronym.recall_at_1.any()


def test_a_tie_with_one_other_is_no_recall():
    found = acronym_ranks(lambda texts: torch.ones(len(texts), 1), [("A", "alpha"), ("B", "beta")])
    assert found.to_expansion.reciprocal_rank == pytest.approx(1 / 1.5)
    assert found.to_expansion.recall_at_1.tolist() == [0.0, 0.0]


def test_no_pairs_give_no_ranks():
    found = acronym_ranks(_embedder({}), [])
    assert len(found.to_expansion.reciprocal_rank) == len(found.to_acronym.recall_at_1) == 0


# Opposites.

OPPOSED = [("ul", "dl"), ("start", "stop"), ("start", "end")]


def _rate(words, nearest_of, opposites=OPPOSED):
    nearest = np.array([words.index(nearest_of.get(w, words[w == words[0]])) for w in words])
    return opposites_rate(words, nearest, opposites)


def test_opposites_by_hand():
    words = ["ul_grant", "dl_grant", "ul_bler", "dl_bler", "grant", "ul_only"]
    found = _rate(words, {"ul_grant": "dl_grant", "dl_grant": "grant", "ul_bler": "dl_bler", "dl_bler": "ul_bler"})
    # Four words have a counterpart (ul_only has none), three have it as nearest; of the two pairs one is mutual.
    assert (found.rate, found.n) == (0.75, 4)
    assert (found.mutual_rate, found.n_pairs) == (0.5, 2)
    assert found.examples == [("ul_grant", "dl_grant"), ("ul_bler", "dl_bler"), ("dl_bler", "ul_bler")]


def test_a_word_with_several_opposites_counts_once():
    words = ["start_t", "stop_t", "end_t", "other"]
    found = _rate(words, {"start_t": "end_t", "stop_t": "other", "end_t": "other"})
    assert (found.n, found.n_pairs) == (3, 2)
    assert found.rate == 1 / 3
    assert found.mutual_rate == 0.0


def test_parts_end_at_underscores_and_digits_and_nowhere_else():
    words = ["ul2_x", "dl2_x", "rulx", "rdlx", "_ul", "_dl", "x3ul", "x3dl"]
    found = _rate(words, {})
    assert (found.n, found.n_pairs) == (6, 3)


def test_only_one_part_differs():
    assert _rate(["ul_start", "dl_stop"], {"ul_start": "dl_stop"}).n == 0
    assert _rate(["ul_ul", "dl_ul", "dl_dl"], {}).n_pairs == 2


def test_no_opposites_give_no_rate():
    found = _rate(["grant", "beam"], {})
    assert math.isnan(found.rate)
    assert math.isnan(found.mutual_rate)
    assert (found.n, found.n_pairs, found.examples) == (0, 0, [])


def test_at_most_ten_examples_are_told():
    words = [f"{side}_{chr(97 + i)}" for i in range(10) for side in ("ul", "dl")]
    found = _rate(words, {w: ("dl" if w[0] == "u" else "ul") + w[2:] for w in words})
    assert (found.rate, found.n, found.mutual_rate, len(found.examples)) == (1.0, 20, 1.0, 10)


# Similarity.


def _graded(n, seed=0):
    rng = np.random.default_rng(seed)
    return [Similarity(f"a{i}", f"b{i}", float(g)) for i, g in enumerate(rng.integers(0, 5, n))]


def test_the_correlation_and_its_interval_are_those_of_scipy():
    rows = _graded(40)
    embed = _random_embedder({t for r in rows for t in (r.a, r.b)}, seed=2)
    found = similarity_correlation(embed, rows, n_resamples=50, seed=7)
    a, b = embed([r.a for r in rows]), embed([r.b for r in rows])
    assert found.cosine == pytest.approx(torch.nn.functional.cosine_similarity(a, b).numpy(), abs=1e-6)
    relation = np.array([r.relation for r in rows])
    assert found.spearman.value == pytest.approx(spearmanr(found.cosine, relation).statistic, rel=1e-12)
    draws = []
    for weight in resample_weights(np.arange(40), 50, 7)[1]:
        rows_ = [i for i, w in enumerate(weight) for _ in range(w)]
        draws.append(spearmanr(found.cosine[rows_], relation[rows_]).statistic)
    assert [found.spearman.low, found.spearman.high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), rel=1e-12)
    assert found.spearman.n == 40


def test_cosines_in_the_order_of_the_grades_correlate_fully():
    rows = [Similarity("q", f"b{i}", float(i)) for i in range(5)]
    vectors = {"q": [1, 0], **{f"b{i}": [math.cos(1 - i / 5), math.sin(1 - i / 5)] for i in range(5)}}
    assert similarity_correlation(_embedder(vectors), rows, n_resamples=20, seed=0).spearman.value == pytest.approx(1)


def test_one_vector_for_everything_has_no_correlation():
    found = similarity_correlation(lambda texts: torch.ones(len(texts), 1), _graded(9), n_resamples=10, seed=0)
    assert math.isnan(found.spearman.value)
    assert math.isnan(found.spearman.low)


def test_no_rows_have_no_correlation():
    found = similarity_correlation(_embedder({}), [], n_resamples=10, seed=0)
    assert found.spearman.as_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_only_words_with_a_counterpart_need_neighbours():
    words = ["ul_grant", "mac", "dl_grant", "tx", "ul_x"]
    opposites = [("ul", "dl"), ("tx", "rx")]
    asked = meaning.words_with_opposites(words, opposites)
    assert asked.tolist() == [0, 2]
    nearest = np.full(len(words), -1)
    nearest[asked] = [2, 1]
    found = meaning.opposites_rate(words, nearest, opposites)
    assert (found.rate, found.n, found.mutual_rate) == (0.5, 2, 0.0)
