"""Exported vectors, read back the way other programs read them."""

import numpy as np
import pytest

from commbert import tables
from commbert.reporting.vectors import DECIMALS, NamedVectors, VectorFiles, write_vectors

HOSTILE = [
    "tab\there",
    "line\nend",
    "no\u00a0break",
    "\u202ertl",
    'quo"te',
    "com,ma",
    "<b>",
    "naïve",
    "日本",
    "-1",
    "back\\n",
]
NOT_PLAIN = ["tab\there", "line\nend", "no\u00a0break", "\u202ertl"]


def vectors(names, dims=7, seed=0):
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(len(names), dims)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    n_lines = np.arange(len(names))[::-1].astype(np.int64)
    return NamedVectors(np.arange(3, 3 + len(names)), names, n_lines, ["src/a"] * len(names), found)


@pytest.fixture
def out(tmp_path):
    names = ("v.parquet", "projector.tsv", "metadata.tsv", "w2v.txt")
    return VectorFiles(*(tmp_path / "vectors" / name for name in names))


def read_word2vec(path):
    """Read word2vec text as its readers do: a heading, then a word and its numbers, parted by single spaces."""
    with path.open(encoding="utf-8", newline="\n") as file:
        n, dims = map(int, file.readline().split())
        rows = {}
        for _ in range(n):
            word, *numbers = file.readline().rstrip().split(" ")
            assert len(numbers) == dims
            rows[word] = np.array(numbers, np.float32)
        assert file.read() == ""
    assert len(rows) == n
    return rows


def test_word2vec_text_has_every_plain_word_with_its_numbers(out):
    made = vectors(["harq", "mcs_index", *HOSTILE])
    assert write_vectors(made, out, provenance={}) == len(NOT_PLAIN)
    found = read_word2vec(out.word2vec)
    assert list(found) == [w for w in made.word if w not in NOT_PLAIN]
    for word, numbers in found.items():
        own = made.vectors[made.word.index(word)]
        assert np.abs(numbers - own).max() <= 0.51 * 10.0**-DECIMALS


def test_cosines_of_the_text_files_are_as_near_as_their_docstring_says(out):
    made = vectors([f"w{i}" for i in range(300)], dims=384)
    write_vectors(made, out, provenance={})
    found = np.stack(list(read_word2vec(out.word2vec).values())).astype(np.float64)
    own = made.vectors.astype(np.float64)
    found, own = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (found, own))
    assert np.abs(found @ found.T - own @ own.T).max() < 2e-5


def test_the_projectors_two_files_belong_together_row_by_row(out):
    made = vectors(["harq", *HOSTILE])
    write_vectors(made, out, provenance={})
    numbers = [line.split("\t") for line in out.projector_vectors.read_text(encoding="utf-8").splitlines()]
    heading, *rows = out.projector_metadata.read_text(encoding="utf-8").split("\n")[:-1]
    assert heading.split("\t") == ["word", "n_lines", "area"]
    assert len(numbers) == len(rows) == len(made.word)
    np.testing.assert_allclose(np.array(numbers, np.float32), made.vectors, atol=0.51 * 10.0**-DECIMALS, rtol=0)
    assert [row.split("\t")[1] for row in rows] == [str(n) for n in made.n_lines]


def test_the_projectors_words_are_shown_as_text_in_one_cell_each(out):
    write_vectors(vectors(HOSTILE), out, provenance={})
    text = out.projector_metadata.read_text(encoding="utf-8")
    words = [row.split("\t")[0] for row in text.split("\n")[1:-1]]
    assert words[:5] == ["tab\\u{9}here", "line\\u{a}end", "no\\u{a0}break", "\\u{202e}rtl", 'quo"te']
    assert all(c.isprintable() for word in words for c in word)
    assert all(len(row.split("\t")) == 3 for row in text.split("\n")[:-1])


def test_parquet_has_the_vectors_exactly(out):
    made = vectors([f"w{i}" for i in range(5000)], dims=3)
    write_vectors(made, out, provenance={"inputs": "abc"})
    table = tables.read(out.parquet, tables.EXPLORED_VECTORS)
    assert table["word"].to_pylist() == made.word
    assert table["word_id"].to_pylist() == made.word_id.tolist()
    assert table["n_lines"].to_pylist() == made.n_lines.tolist()
    values, offsets = tables.list_values(table["vector"])
    assert values.reshape(5000, 3).tobytes() == made.vectors.tobytes()
    assert np.diff(offsets).tolist() == [3] * 5000
    assert tables.provenance_of(out.parquet)["inputs"] == "abc"
