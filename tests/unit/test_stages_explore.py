"""The stage explore: a base model and a run's, a small corpus, to a page, vectors and a map."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

import cli_case
import tiny
from commbert import tables
from commbert.artifacts import read_json
from commbert.errors import DataError, ModelError
from commbert.evaluation.words import Words, telling_words
from commbert.reporting.exploring import unpacked
from commbert.reporting.vectors import VectorFiles
from commbert.settings.explore import ExploreSettings
from commbert.stages import explore
from commbert.text.languages import KEYWORDS

SETTINGS = ExploreSettings(words=60, neighbours=12, map_words=30, seed=3)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Two tiny models of other weights."""
    at = tmp_path_factory.mktemp("models")
    return {n: tiny.write_base_model(at / n, with_heads=True, seed=i) for i, n in enumerate(("base", "run"))}


def inputs_of(chain):
    at, data = chain.at, chain.data
    return explore.ExploreInputs(
        words=at / "tokenizer" / "words.parquet",
        corpus_words=at / "corpus" / "words.parquet",
        files=data.files,
        shards=at / "corpus" / "shards.json",
        lexed={name: data.lexed(name) for name in data.shards},
    )


def outputs_of(folder):
    names = ("v.parquet", "projector.tsv", "metadata.tsv", "w2v.txt")
    files = VectorFiles(*(folder / "vectors" / name for name in names))
    return explore.ExploreOutputs(
        files, folder / "page.html", folder / "map.json", folder / "map.svg", folder / "explore.json"
    )


def run(chain, models, folder, *, settings=SETTINGS, telling=("harq", "no_such_word"), **changes):
    subjects = {n: explore.ExploredModel(path, "mean") for n, path in models.items()} | changes
    out = outputs_of(folder)
    explore.run(
        settings,
        "final",
        base=subjects["base"],
        model=subjects["run"],
        telling=telling,
        device="cpu",
        data=inputs_of(chain),
        out=out,
    )
    return out


@pytest.fixture(scope="module")
def explored(chain, models, tmp_path_factory):
    return run(chain, models, tmp_path_factory.mktemp("explored"))


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


def chosen(chain, n=60):
    """Return the rows of the words that are to be shown."""
    rows = [row for row in chain.rows("tokenizer/words") if row["in_code"] and row["word"] not in KEYWORDS]
    return rows[:n]


def test_the_words_are_the_most_frequent_ones_of_the_code_that_are_no_keywords(chain, explored):
    words = chosen(chain)
    assert {"self", "return"} & {row["word"] for row in chain.rows("tokenizer/words")}
    data = data_of(explored.page)
    assert data["words"] == [row["word"] for row in words]
    assert data["lines"] == [row["n_lines"] for row in words]
    assert data["lines"] == sorted(data["lines"], reverse=True)
    summary = read_json(explored.summary)
    n_more = len(chosen(chain, 10**9)) - 60
    assert (summary["words"], summary["words_left_out"]) == (60, n_more)
    assert n_more > 0


def test_the_page_has_the_nearest_words_that_sentence_transformers_vectors_give(chain, models, explored):
    words = [row["word"] for row in chosen(chain)]
    data = data_of(explored.page)
    for key, folder in models.items():
        theirs = SentenceTransformer(str(folder), device="cpu")
        theirs.tokenizer.model_max_length = 64
        vectors = theirs.encode(words, normalize_embeddings=True).astype(np.float64)
        cosine = vectors @ vectors.T
        np.fill_diagonal(cosine, -np.inf)
        found = unpacked(data[key], data["k"])
        # Equal cosines may stand in any order: compare the cosines, then the words where they are apart.
        best = -np.sort(-cosine, axis=1)[:, :12]
        np.testing.assert_allclose(found.cosine, best, atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(cosine, found.index, 1), best, atol=1e-4)
        assert (np.sort(found.index)[:, 1:] != np.sort(found.index)[:, :-1]).all()


def test_the_exported_vectors_are_those_of_the_run_by_word(chain, models, explored):
    table = tables.read(explored.vectors.parquet, tables.EXPLORED_VECTORS)
    words = chosen(chain)
    assert table["word"].to_pylist() == [row["word"] for row in words]
    assert table["word_id"].to_pylist() == [row["word_id"] for row in words]
    theirs = SentenceTransformer(str(models["run"]), device="cpu").encode(
        table["word"].to_pylist(), normalize_embeddings=True
    )
    np.testing.assert_allclose(np.array(table["vector"].to_pylist()), theirs, atol=1e-5)


def test_the_area_of_a_word_that_one_directory_has_is_that_directory(chain, models, tmp_path):
    out = run(chain, models, tmp_path, settings=ExploreSettings(words=1000, neighbours=5, map_words=10))
    table = tables.read(out.vectors.parquet, tables.EXPLORED_VECTORS)
    area_of = dict(zip(table["word"].to_pylist(), table["area"].to_pylist(), strict=True))
    files = {row["file_id"]: row for row in chain.rows("corpus/files")}
    lines = [row for row in chain.lines() if "onlyczz" in row["code"]]
    [folder] = {files[row["file_id"]]["path"].rsplit("/", 1)[0] for row in lines}
    assert area_of["onlyczz"] == folder


def test_the_summary_says_what_share_of_neighbours_both_models_have(explored):
    data = data_of(explored.page)
    base, of_run = (unpacked(data[key], 12).index[:, :10] for key in ("base", "run"))
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(base, of_run, strict=True)])
    page = read_json(explored.summary)["page"]
    assert page["shared"] == pytest.approx(share)
    assert 0.05 < share < 0.95
    assert page["recall"] == {"base": 1.0, "run": 1.0}
    assert page["bytes"] == explored.page.stat().st_size


def test_the_map_has_telling_words_first_and_then_frequent_ones(chain, explored):
    found = read_json(explored.map)
    names = [row["word"] for row in found["words"]]
    frequent = [row["word"] for row in chosen(chain)]
    assert names[0] == "harq"
    expected = ["harq", *[w for w in frequent if w != "harq"]][:30]
    assert sorted(names) == sorted(expected)
    assert all(0 <= row["area"] < len(found["areas"]) for row in found["words"])
    assert np.isfinite([row["base"] + row["run"] for row in found["words"]]).all()
    assert set(found["trustworthiness"]) == {"base", "run"}
    assert ">harq<" in explored.figure.read_text(encoding="utf-8")


def test_without_telling_words_frequent_compound_ones_are_shown(chain, models, tmp_path):
    text = run(chain, models, tmp_path, telling=()).page.read_text(encoding="utf-8")
    shown = re.findall(r'data-row="(\d+)">([^<]+)<', text)
    assert shown
    assert all("_" in word for _, word in shown)


def test_a_repeat_gives_the_same_bytes(chain, models, explored, tmp_path):
    again = run(chain, models, tmp_path)
    for one, two in (
        (explored.page, again.page),
        (explored.map, again.map),
        (explored.figure, again.figure),
        *((getattr(explored.vectors, f), getattr(again.vectors, f)) for f in vars(explored.vectors)),
    ):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_pooling_is_each_models_own(chain, models, explored, tmp_path):
    out = run(chain, models, tmp_path, run=explore.ExploredModel(models["run"], "cls"))
    one, two = data_of(explored.page), data_of(out.page)
    assert one["base"] == two["base"]
    assert one["run"] != two["run"]
    assert "mean (base) and\ncls (run)" in out.page.read_text(encoding="utf-8")


def test_fewer_words_than_neighbours_are_all_listed(chain, models, tmp_path):
    out = run(chain, models, tmp_path, settings=ExploreSettings(words=10, neighbours=50, map_words=5))
    data = data_of(out.page)
    assert data["k"] == 9
    assert [sorted({*row, i}) for i, row in enumerate(unpacked(data["run"], 9).index.tolist())] == [[*range(10)]] * 10


def test_a_model_whose_vectors_are_no_numbers_is_refused_by_name(chain, models, tmp_path):
    broken = shutil.copytree(models["run"], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(n for n in weights if n.endswith("embeddings.LayerNorm.bias"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"broken: expected finite vectors of words, found NaN"):
        run(chain, models, tmp_path / "out", run=explore.ExploredModel(broken, "mean"))
    assert not (tmp_path / "out").exists()


def test_a_code_of_four_words_is_refused(chain, models, tmp_path):
    words = [row | {"in_code": i < 4} for i, row in enumerate(chosen(chain))]
    path = tmp_path / "words.parquet"
    tables.write(path, tables.WORDS, {n: [row[n] for row in words] for n in tables.WORDS.schema.names}, provenance={})
    subject = explore.ExploredModel(models["run"], "mean")
    data = explore.ExploreInputs(**{**vars(inputs_of(chain)), "words": path})
    with pytest.raises(DataError, match=r"words.parquet: expected at least 5 words of the code .* found 4"):
        explore.run(
            SETTINGS,
            "final",
            base=subject,
            model=subject,
            telling=(),
            device="cpu",
            data=data,
            out=outputs_of(tmp_path),
        )


def test_telling_words_are_those_asked_for_or_frequent_compound_words_of_training():
    text = ["int", "mcs_index", "_private_x", "harq", "tb_size", "new_word", "the"]
    n_lines = np.array([9, 8, 7, 6, 5, 0, 0.0])
    words = Words(text, n_lines, np.array([w != "int" for w in text]), n_code=6)
    assert telling_words(words, ["harq", "int", "the", "absent", "tb_size"]) == ["harq", "tb_size"]
    assert telling_words(words, ["absent"]) == ["mcs_index", "tb_size"]


def command(chain, models, folder, **changes):
    data, out = inputs_of(chain), outputs_of(folder)
    options = {
        "settings": SETTINGS.as_json(),
        "run": "final",
        "base": models["base"],
        "model": models["run"],
        "telling": "harq",
        "words": data.words,
        "corpus-words": data.corpus_words,
        "files": data.files,
        "shards": data.shards,
        "vectors-out": out.vectors.parquet,
        "projector-vectors-out": out.vectors.projector_vectors,
        "projector-metadata-out": out.vectors.projector_metadata,
        "word2vec-out": out.vectors.word2vec,
        "page-out": out.page,
        "map-out": out.map,
        "figure-out": out.figure,
        "summary-out": out.summary,
        "threads": 1,
        **changes,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return out, ["explore", *given, *(f"--lexed={path}" for path in data.lexed.values())]


def test_the_command_writes_what_the_stage_does(chain, models, explored, tmp_path):
    out, given = command(chain, models, tmp_path)
    done = cli_case.commbert(*given)
    assert done.returncode == 0, done.stderr
    assert out.page.read_bytes() == explored.page.read_bytes()
    assert out.map.read_bytes() == explored.map.read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pooling": "max"}, ["--pooling: expected mean or cls, found 'max'"]),
        ({"base-pooling": "CLS"}, ["--base-pooling: expected mean or cls, found 'CLS'"]),
        ({"settings": '{"word": 5}'}, ["explore word: unknown setting. Did you mean words?"]),
    ],
)
def test_the_command_refuses_a_mistake_in_one_line(chain, models, tmp_path, changes, told):
    _, given = command(chain, models, tmp_path / "out", **changes)
    cli_case.assert_refused(cli_case.commbert(*given), tmp_path / "out", *told)
