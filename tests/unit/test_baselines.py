"""Vectors of words by their lines and by their spelling, against slow and plain calculations."""

import json
import math
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

import data_case
import tiny_stages
from commbert import tables
from commbert.baselines import factors, ppmi
from commbert.baselines.factors import truncated_svd, unit_rows
from commbert.baselines.ngrams import ngram_vectors
from commbert.baselines.ppmi import CoOccurrences, ppmi_vectors
from commbert.baselines.vectors import read_vectors, write_vectors
from commbert.errors import DataError, SettingsError
from commbert.settings import config
from commbert.settings.baselines import BaselineKind, BaselinesSettings
from commbert.settings.pairs import PairsSettings
from commbert.stages import baseline
from commbert.text.languages import KEYWORDS

LINES = [[0, 1, 2], [0, 1], [1, 2, 3], [4, 5], [0, 4, 5], [3]]
HOSTILE = ["дескриптор", "信道估计", "naïve_İ", "x" * 100, "a", "\u202eabc", "e\u0301", "a b", "😀😀", "\x00\x01"]


def offsets_of(lines):
    return np.array([0, *np.cumsum([len(line) for line in lines])], np.int64)


def counted(lines, n_words, at_once=1):
    """Count lines, so many at once."""
    found = CoOccurrences(n_words)
    for at in range(0, len(lines), at_once):
        some = lines[at : at + at_once]
        found.add(np.array([w for line in some for w in line], np.uint32), offsets_of(some))
    return found.counts()


def slow_counts(lines, n_words):
    out = np.zeros((n_words, n_words))
    for line in lines:
        for a, b in combinations(line, 2):
            out[a, b] += 1
            out[b, a] += 1
    return out


def slow_ppmi(counts, alpha, shift):
    """By the definition: shares of pairs, of words, of smoothed contexts."""
    total, n = counts.sum(), len(counts)
    p_context = counts.sum(0) ** alpha / (counts.sum(0) ** alpha).sum()
    out = np.zeros((n, n))
    for w in range(n):
        for c in range(n):
            if counts[w, c]:
                pmi = math.log(counts[w, c] / total / (counts[w].sum() / total * p_context[c]))
                out[w, c] = max(pmi - math.log(shift), 0.0)
    return out


def some_lines(n_words, n, seed):
    rng = np.random.default_rng(seed)
    return [sorted(rng.choice(n_words, rng.integers(1, 6), replace=False).tolist()) for _ in range(n)]


def matrix(rows, columns, seed, density=0.3):
    return csr_array(random_array((rows, columns), density=density, rng=np.random.default_rng(seed), format="csr"))


def gram(vectors):
    return vectors.astype(np.float64) @ vectors.astype(np.float64).T


# -- Counts and PPMI ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("products", [1, 10, 10**6])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_counts_are_those_of_all_pairs_of_each_line_however_lines_come(monkeypatch, products, at_once):
    monkeypatch.setattr(ppmi, "_PRODUCTS_AT_ONCE", products)
    lines = some_lines(12, 80, 1)
    found = counted(lines, 12, at_once)
    assert found.toarray().tolist() == slow_counts(lines, 12).tolist()
    assert found.dtype == np.int64


def test_counts_of_no_line_and_of_empty_lines_are_none():
    assert counted([], 3).nnz == 0
    assert counted([[], [1], []], 3, 3).nnz == 0


@pytest.mark.parametrize(("alpha", "shift"), [(1.0, 1.0), (0.75, 1.0), (0.75, 5.0), (0.5, 1.5)])
def test_ppmi_is_its_definition(alpha, shift):
    lines = LINES + some_lines(8, 60, 2)
    found = ppmi.ppmi(counted(lines, 9), context_smoothing=alpha, shift=shift)
    np.testing.assert_allclose(found.toarray(), slow_ppmi(slow_counts(lines, 9), alpha, shift), atol=1e-12)
    assert (found.data > 0).all()


def test_ppmi_by_hand():
    # Lines {0, 1} and {2, 3}: each pair is 2 of 4 ordered pairs, each word 1 of 4: PMI = log(1/4 / (1/4 * 1/4)).
    found = ppmi.ppmi(counted([[0, 1], [2, 3]], 4), context_smoothing=0.75, shift=1.0).toarray()
    assert found[0, 1] == found[3, 2] == pytest.approx(math.log(4))
    assert found[0, 2] == 0


def test_ppmi_leaves_the_counts_as_they_are():
    counts = counted(LINES, 6)
    before = counts.toarray()
    ppmi.ppmi(counts, context_smoothing=0.75, shift=5.0)
    assert (counts.toarray() == before).all()


@pytest.mark.parametrize("dims", [3, 9, 40])
def test_vectors_are_the_left_singular_vectors_by_the_roots_of_their_values(dims):
    lines = some_lines(30, 300, 3)
    made = ppmi_vectors(counted(lines, 30), 32, dims=dims, context_smoothing=0.75, shift=1.0, seed=0)
    u, s, _ = np.linalg.svd(slow_ppmi(slow_counts(lines, 30), 0.75, 1.0))
    rows = u[:, :dims] * np.sqrt(s[:dims])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(gram(made.vectors[:30]), rows @ rows.T, atol=1e-6)
    assert made.vectors.shape == (32, min(dims, 30))
    assert not made.vectors[30:].any()
    assert made.explained == pytest.approx((s[:dims] ** 2).sum() / (s**2).sum())


def test_words_that_share_a_line_are_near_and_others_are_not():
    made = ppmi_vectors(counted([[0, 1], [2, 3], [0, 1]], 4), 4, dims=4, context_smoothing=0.75, shift=1.0, seed=0)
    lines = [[0, 2], [1, 2], [0, 3], [1, 3], [4, 5], [4, 6], [5, 6]]
    alike = ppmi_vectors(counted(lines, 7), 7, dims=3, context_smoothing=1.0, shift=1.0, seed=0)
    assert gram(made.vectors)[0, 2] == pytest.approx(0, abs=1e-6)
    assert gram(alike.vectors)[0, 1] == pytest.approx(1, abs=1e-6)
    assert gram(alike.vectors)[0, 4] == pytest.approx(0, abs=1e-6)


def test_a_word_without_positive_pmi_has_no_vector_instead_of_noise():
    # Word 0 stands with everybody, about as often as chance has it.
    lines = [[0, w] for w in range(1, 5)] + [[1, 2]] * 20 + [[3, 4]] * 20
    made = ppmi_vectors(counted(lines, 5), 5, dims=5, context_smoothing=1.0, shift=20.0, seed=0)
    some = ppmi_vectors(counted(lines, 5), 5, dims=5, context_smoothing=1.0, shift=1.2, seed=0)
    assert not made.vectors.any()
    assert made.n_nonzero == 0
    assert np.flatnonzero(~some.vectors.any(1)).tolist() == [0]


def test_a_word_that_the_leading_dimensions_do_not_see_has_no_vector_instead_of_noise():
    # Twenty words that stand together, and a pair of its own, outside of the one dimension that is kept.
    lines = [[i, j] for i in range(20) for j in range(i + 1, 20)] + [[20, 21]]
    made = ppmi_vectors(counted(lines, 22), 22, dims=1, context_smoothing=1.0, shift=1.0, seed=0)
    assert sorted(Counter(np.abs(made.vectors[:, 0]).tolist())) == [0.0, 1.0]
    assert (made.vectors[:20, 0].any(), made.vectors[20:, 0].any()) in [(True, False), (False, True)]


@pytest.mark.parametrize("n_words", [0, 1, 3])
def test_no_pair_gives_no_vector(n_words):
    made = ppmi_vectors(counted([], n_words), n_words, dims=8, context_smoothing=0.75, shift=1.0, seed=0)
    assert made.vectors.shape == (n_words, 0)
    assert made.n_nonzero == 0


# -- Decomposition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30), (300, 200), (200, 300), (1, 9), (9, 1)])
@pytest.mark.parametrize("dims", [1, 12, 64])
def test_the_decomposition_is_numpys(shape, dims):
    a = matrix(*shape, seed=4)
    found = truncated_svd(a, dims, seed=5)
    u, s, vt = np.linalg.svd(a.toarray(), full_matrices=False)
    k = min(dims, *shape)
    np.testing.assert_allclose(found.values, s[:k], rtol=1e-9)
    np.testing.assert_allclose((found.left * found.values) @ found.right.T, u[:, :k] * s[:k] @ vt[:k], atol=1e-8)
    np.testing.assert_allclose(found.left.T @ found.left, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(found.right.T @ found.right, np.eye(k), atol=1e-9)
    assert found.explained == pytest.approx((s[:k] ** 2).sum() / (s**2).sum())
    assert (found.left[np.abs(found.left).argmax(0), np.arange(k)] > 0).all()


def test_a_decomposition_again_is_the_same_bit_by_bit():
    one, two = (truncated_svd(matrix(300, 280, seed=6), 20, seed=7) for _ in range(2))
    assert all((x == y).all() for x, y in zip(vars(one).values(), vars(two).values(), strict=True) if np.ndim(x))


def test_the_seed_changes_no_figure():
    one, two = (truncated_svd(matrix(300, 280, seed=6), 20, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(one.left, two.left, atol=1e-8)


def test_a_matrix_of_lower_rank_gives_no_more_dimensions_than_its_rank():
    rng = np.random.default_rng(8)
    low = csr_array(rng.normal(size=(50, 4)) @ rng.normal(size=(4, 60)))
    assert len(truncated_svd(low, 20, seed=0).values) == 4
    assert truncated_svd(low, 20, seed=0).explained == pytest.approx(1.0)
    assert len(truncated_svd(csr_array((5, 6)), 20, seed=0).values) == 0


def test_a_decomposition_that_does_not_converge_is_an_error_of_the_setting(monkeypatch):
    def fail(*_, **__):
        raise factors.ArpackNoConvergence("no", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(factors, "eigsh", fail)
    with pytest.raises(DataError, match=r"baselines\.dims: the decomposition to 20 dimensions"):
        truncated_svd(matrix(300, 280, seed=6), 20, seed=7)


def test_rows_are_of_length_one_or_zero():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0], [1e-3, 0.0]])
    assert unit_rows(rows, np.full(4, 5.0)).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0], [0, 0], [1, 0]]


# -- Spelling ----------------------------------------------------------------------------------------------------------


def slow_tfidf(words, training, lengths):
    """TF-IDF of padded character n-grams, in plain Python; n-grams of other words are not known."""

    def grams(word):
        found = Counter()
        for part in re.sub(r"\s+", " ", word.lower()).split():
            padded = f" {part} "
            for n in range(lengths[0], lengths[1] + 1):
                found.update(padded[i : i + n] for i in range(max(len(padded) - n, 0) + 1))
                if n >= len(padded):
                    break
        return found

    known = sorted({g for w in training for g in grams(w)})
    with_gram = Counter(g for w in training for g in set(grams(w)))
    idf = {g: math.log((1 + len(training)) / (1 + with_gram[g])) + 1 for g in known}
    out = np.array([[(1 + math.log(c[g])) * idf[g] if c[g] else 0.0 for g in known] for c in map(grams, words)])
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    return np.divide(out, norm, out=np.zeros_like(out), where=norm > 0)


def spelled(words, in_training=None, dims=64, lengths=(2, 4), max_ngrams=10**6):
    known = np.ones(len(words), np.bool_) if in_training is None else np.array(in_training)
    return ngram_vectors(words, known, dims=dims, lengths=lengths, max_ngrams=max_ngrams, seed=0)


WORDS = ["pusch_config", "PUSCH_Config", "pdsch_config", "harq", "harq_process", "mmmmm", "llr", "ab", "crc_check"]


def test_with_all_dimensions_the_cosines_of_training_words_are_those_of_tf_idf():
    words = [*WORDS, "crc_crc_crc"]
    expected = slow_tfidf(words, words, (2, 4))
    np.testing.assert_allclose(gram(spelled(words).vectors), expected @ expected.T, atol=1e-6)


def test_in_few_dimensions_words_are_their_projections():
    u, s, _ = np.linalg.svd(slow_tfidf(WORDS, WORDS, (2, 4)), full_matrices=False)
    rows = u[:, :2] * s[:2]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)
    made = spelled(WORDS, dims=2)
    assert (made.vectors.any(1) == (length[:, 0] > 1e-6)).all()
    assert not made.vectors.any(1).all()
    np.testing.assert_allclose(gram(made.vectors), rows @ rows.T, atol=1e-6)
    assert made.explained == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())


def test_other_words_change_no_vector_of_the_training_words_and_get_their_own():
    others = ["pusch_zzz", "zzzzz", "harq"]
    made = spelled([*WORDS, *others], [True] * len(WORDS) + [False] * 3)
    assert (made.vectors[: len(WORDS)] == spelled(WORDS).vectors).all()
    assert (made.vectors[-1] == made.vectors[WORDS.index("harq")]).all()
    assert not made.vectors[-2].any()
    assert gram(made.vectors)[-3, 0] > 0.2


def test_case_is_no_difference():
    made = spelled(WORDS)
    assert gram(made.vectors)[0, 1] == pytest.approx(1, abs=1e-6)


def test_words_of_any_script_and_length_get_vectors():
    made = spelled([*HOSTILE, *WORDS])
    assert np.isfinite(made.vectors).all()
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("words", [[], [" "], [" ", "\t"]])
def test_no_spelling_gives_no_vector(words):
    assert spelled(words).vectors.shape == (len(words), 0)


def test_no_training_word_gives_no_vector():
    assert spelled(WORDS, [False] * len(WORDS)).vectors.shape == (len(WORDS), 0)


def test_one_word_gives_one_dimension():
    assert spelled(["harq"]).vectors.tolist() == [[1.0]]


def test_only_the_most_frequent_ngrams_are_kept():
    made = spelled(WORDS, max_ngrams=5)
    assert made.vectors.shape[1] <= 5
    assert made.n_nonzero < spelled(WORDS).n_nonzero


# -- The table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 0), (1, 3), (70_000, 2), (4, 0)])
def test_vectors_are_read_as_they_were_written(tmp_path, shape):
    vectors = np.random.default_rng(9).normal(size=shape).astype(np.float32)
    write_vectors(tmp_path / "v.parquet", vectors, provenance={})
    found = read_vectors(tmp_path / "v.parquet")
    assert found.dtype == np.float32
    assert found.shape == vectors.shape
    assert (found == vectors).all()


@pytest.mark.parametrize(
    ("ids", "rows"),
    [
        ([0, 2], [[1.0], [1.0]]),
        ([0, 1], [[1.0], [1.0, 0.0]]),
        ([0, 1], [[1.0], [math.nan]]),
        ([1, 0], [[1.0], [1.0]]),
    ],
)
def test_a_table_that_lacks_words_or_numbers_is_refused(tmp_path, ids, rows):
    column = tables.list_column(tables.WORD_VECTORS, "vector", [np.array(r, np.float32) for r in rows])
    columns = {"word_id": np.array(ids, np.uint32), "vector": column}
    tables.write(tmp_path / "v.parquet", tables.WORD_VECTORS, columns, provenance={})
    with pytest.raises(DataError, match="for each word_id in order, found others"):
        read_vectors(tmp_path / "v.parquet")


# -- The stage ---------------------------------------------------------------------------------------------------------

SETTINGS = BaselinesSettings(dims=24)
PAIRS = data_case.SECTIONS["pairs"]


def paths_of(chain, shards=None):
    data, at = chain.data, chain.at
    lexed = {name: data.lexed(name) for name in shards or data.shards}
    words = (at / "corpus/words.parquet", at / "tokenizer/words.parquet")
    return baseline.BaselinePaths(data.files, at / "corpus/shards.json", lexed, *words)


def made_by(chain, out, kind, settings=SETTINGS, pairs=PAIRS, shards=None):
    where = {"vectors_out": out / "vectors.parquet", "summary_out": out / "summary.json"}
    summary = baseline.run(settings, pairs, kind=kind, data=paths_of(chain, shards), **where)
    return summary, where["vectors_out"]


@pytest.mark.parametrize("drop_keywords", [True, False])
def test_the_stage_counts_the_lines_of_training_files_and_no_others(tmp_path, chain, drop_keywords):
    pairs = PAIRS.model_copy(update={"drop_keywords": drop_keywords})
    summary, out = made_by(chain, tmp_path, BaselineKind.PPMI_SVD, pairs=pairs)
    words, split = chain.word(), chain.split_of()
    id_of = {word: i for i, word in enumerate(words)}
    pattern = re.compile(data_case.SECTIONS["words"].pattern)
    lines = [
        sorted(
            {id_of[w] for w in pattern.findall(row["code"]) if w in id_of and (not drop_keywords or w not in KEYWORDS)}
        )
        for row in chain.lines()
        if split[row["file_id"]] == "train"
    ]
    dense = slow_ppmi(slow_counts(lines, len(words)), 0.75, 1.0)
    u, s, _ = np.linalg.svd(dense)
    rows = u[:, :24] * np.sqrt(s[:24])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)
    found = read_vectors(out)
    np.testing.assert_allclose(gram(found), rows @ rows.T, atol=1e-5)
    assert summary["nonzeros"] == (dense > 0).sum()
    assert summary["words_without_vector"] == (~found.any(1)).sum()
    assert summary["explained_pct"] == pytest.approx(100 * (s[:24] ** 2).sum() / (s**2).sum())


@pytest.mark.parametrize("kind", BaselineKind)
def test_every_word_of_the_tokenizers_table_has_a_row_of_length_one_or_zero(tmp_path, chain, kind):
    summary, out = made_by(chain, tmp_path, kind)
    length = np.linalg.norm(read_vectors(out), axis=1)
    assert len(length) == len(chain.word()) == summary["words"]
    assert set(np.round(length, 5).tolist()) <= {0.0, 1.0}
    assert (length > 0).any()
    assert summary["words_without_vector"] == (length == 0).sum()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert {"wall_s", "cpu_s", "dims", "training_words_without_vector"} < set(summary)


def test_words_of_held_out_files_have_no_vector_by_lines_and_one_by_spelling(tmp_path, chain):
    heldout = [row["word_id"] for row in chain.rows("corpus/words") if row["n_lines"] == 0]
    assert heldout
    _, lines = made_by(chain, tmp_path / "lines", BaselineKind.PPMI_SVD)
    _, spelling = made_by(chain, tmp_path / "spelling", BaselineKind.CHAR_NGRAMS)
    assert not read_vectors(lines)[heldout].any()
    assert read_vectors(spelling)[heldout].any(axis=1).all()


@pytest.mark.parametrize("kind", BaselineKind)
@pytest.mark.parametrize("shards", [1, 5])
def test_the_number_and_order_of_shards_change_no_byte(tmp_path, run_shards, kind, shards):
    _, three = made_by(run_shards(3), tmp_path / "three", kind)
    other = run_shards(shards)
    _, out = made_by(other, tmp_path / "other", kind, shards=list(reversed(other.data.shards)))
    assert [*read_vectors(out).ravel().view(np.uint32)] == [*read_vectors(three).ravel().view(np.uint32)]


@pytest.mark.parametrize("kind", BaselineKind)
def test_the_stage_again_writes_the_same_bytes(tmp_path, chain, kind):
    one, two = (made_by(chain, tmp_path / name, kind)[1].read_bytes() for name in "ab")
    assert one == two


def test_long_lines_are_capped_as_in_the_drawing_of_pairs(tmp_path, chain):
    whole, _ = made_by(chain, tmp_path, BaselineKind.PPMI_SVD)
    capped, _ = made_by(
        chain, tmp_path, BaselineKind.PPMI_SVD, pairs=PAIRS.model_copy(update={"max_words_per_line": 2})
    )
    assert capped["nonzeros"] < whole["nonzeros"]


def test_a_corpus_whose_pairs_are_all_beyond_chance_of_a_shift_is_refused(tmp_path, chain):
    settings = BaselinesSettings(shift=100.0)
    with pytest.raises(DataError, match="baseline ppmi_svd: expected words that share a training line, found none"):
        made_by(chain, tmp_path, BaselineKind.PPMI_SVD, settings)
    assert not (tmp_path / "vectors.parquet").exists()


def test_words_of_another_corpus_are_refused(tmp_path, chain):
    few = tables.read(chain.at / "tokenizer/words.parquet", tables.WORDS).slice(0, 3)
    tables.write(tmp_path / "few.parquet", tables.WORDS, few, provenance={})
    data = baseline.BaselinePaths(**{**vars(paths_of(chain)), "words": tmp_path / "few.parquet"})
    with pytest.raises(DataError, match=r"few\.parquet: expected the \d+ words of .*, found 3"):
        baseline.run(
            SETTINGS,
            PairsSettings(),
            kind=BaselineKind.PPMI_SVD,
            data=data,
            vectors_out=tmp_path / "v.parquet",
            summary_out=tmp_path / "s.json",
        )


def test_the_command_makes_what_the_stage_makes(tmp_path, chain):
    _, expected = made_by(chain, tmp_path / "stage", BaselineKind.PPMI_SVD)
    data = paths_of(chain)
    command = ["baseline", "--kind", "ppmi_svd", "--settings", SETTINGS.as_json(), "--pairs-settings", PAIRS.as_json()]
    command += ["--threads", "2"]
    for option, path in (
        ("files", data.files),
        ("shards", data.shards),
        *(("lexed", folder) for folder in data.lexed.values()),
        ("corpus-words", data.corpus_words),
        ("words", data.words),
        ("vectors-out", tmp_path / "v.parquet"),
        ("summary-out", tmp_path / "s.json"),
    ):
        command += [f"--{option}", str(path)]
    process = data_case.start([command])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (tmp_path / "v.parquet").read_bytes() == expected.read_bytes()


def test_hostile_words_get_vectors_by_the_whole_chain_and_keywords_by_setting(tmp_path, base_folder):
    for d in range(6):
        folder = tmp_path / "tree" / f"d{d}"
        folder.mkdir(parents=True)
        lines = [
            f"return {a} + {b} + only_{d}{i}\n" for i, (a, b) in enumerate(combinations([*HOSTILE[:5], "harq"], 2))
        ]
        (folder / "f.py").write_text("".join(lines), encoding="utf-8")
    words = data_case.SECTIONS["words"].model_copy(update={"pattern": r"[\p{L}_][\p{L}\p{M}\p{N}_]*"})
    settings = data_case.settings_of(data_case.path_source(tmp_path / "tree", shards=2), words=words)
    chain = data_case.Chain(tiny_stages.run_data(tmp_path / "out", settings, base_folder))
    keyword = chain.word().index("return")
    for drop_keywords in (True, False):
        pairs = PAIRS.model_copy(update={"drop_keywords": drop_keywords})
        _, out = made_by(chain, tmp_path / "keywords", BaselineKind.PPMI_SVD, pairs=pairs)
        assert read_vectors(out)[keyword].any() == (not drop_keywords)
    for kind in BaselineKind:
        _, out = made_by(chain, tmp_path / kind, kind)
        found = read_vectors(out)
        assert found[[chain.word().index(word) for word in (HOSTILE[0], HOSTILE[1], HOSTILE[3])]].any(axis=1).all()


def test_a_longest_ngram_below_the_shortest_is_refused():
    raw = {
        "corpus": {"sources": [{"kind": "path", "name": "a", "path": "src"}]},
        "model": {"base": {"kind": "path", "path": "base"}},
        "baselines": {"min_gram": 4, "max_gram": 3},
    }
    with pytest.raises(SettingsError, match=r"baselines: min_gram must not exceed max_gram, found 4 and 3"):
        config.load(raw)
