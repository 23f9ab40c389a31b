"""Asking a model gives what transformers and sentence-transformers give for the same tokens."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForMaskedLM, BertModel

import inference_case as case
import tiny
from commbert import tables
from commbert.artifacts import sha256_file
from commbert.errors import DataError, ModelError
from commbert.inference import filling, neighbours, searching, vectors
from commbert.inference.classifying import load_classifier, predict
from commbert.inference.filling import fill_mask
from commbert.inference.models import load_model
from commbert.inference.texts import AskedText
from commbert.nn.packing import batches_by_length

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return case.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, device="cpu")


def hf_ids(folder, text):
    """Return transformers' own ids, [MASK] as one token."""
    return AutoTokenizer.from_pretrained(str(folder))(text, return_tensors="pt", truncation=True, max_length=64)


def hf_vector(folder, text, pooling):
    with torch.no_grad():
        hidden = BertModel.from_pretrained(str(folder)).eval()(**hf_ids(folder, text)).last_hidden_state[0]
    return (hidden[0] if pooling == "cls" else hidden.mean(0)).numpy()


# -- fill-mask ---------------------------------------------------------------------------------------------------------

TEXTS = ["harq [MASK] slot", "[MASK]", "a [MASK][MASK] the [MASK].", "rlc_[MASK]_index of the house " * 2]


def test_probabilities_at_every_mask_are_those_of_transformers(folder, model):
    theirs = BertForMaskedLM.from_pretrained(str(folder)).eval()
    for text, filled in zip(TEXTS, fill_mask(model, TEXTS, top_k=1000), strict=True):
        ids = hf_ids(folder, text)
        with torch.no_grad():
            expected = torch.softmax(theirs(**ids).logits[0], -1)[ids["input_ids"][0] == model.specials.mask]
        assert len(filled.masks) == len(expected) == text.count("[MASK]")
        for candidates, row in zip(filled.masks, expected, strict=True):
            found = torch.zeros(len(row))
            found[[c.token_id for c in candidates]] = torch.tensor([c.probability for c in candidates])
            assert len(candidates) == len(row)
            assert torch.allclose(found, row, atol=1e-5)
            assert [c.probability for c in candidates] == sorted((c.probability for c in candidates), reverse=True)
            assert all(model.tokenizer.token_to_id(c.token) == c.token_id for c in candidates)


def test_texts_of_all_lengths_keep_their_order_whatever_the_batch(model, monkeypatch):
    texts = [f"{'harq ' * (i % 7)}[MASK] {'rlc ' * (i % 5)}[MASK]"[: 40 + i] for i in range(30)]
    texts = [t if "[MASK]" in t else f"{t} [MASK]" for t in texts]
    whole = list(fill_mask(model, texts, top_k=3))
    alone = [next(iter(fill_mask(model, [t], top_k=3))) for t in texts]
    monkeypatch.setattr(filling, "_BATCH_TOKENS", 20)
    monkeypatch.setattr(filling, "_MASKS_AT_ONCE", 3)
    small = list(fill_mask(model, texts, top_k=3))
    for some in (alone, small):
        for one, other in zip(whole, some, strict=True):
            assert one.text == other.text
            for a, b in zip(one.masks, other.masks, strict=True):
                assert [c.token for c in a] == [c.token for c in b]
                assert [c.probability for c in a] == pytest.approx([c.probability for c in b], abs=1e-5)


def test_a_text_without_a_mask_is_refused_with_its_place(model):
    asked = [AskedText("ok [MASK]", "f.txt, line 1"), AskedText("say [mask]", "f.txt, line 7")]
    with pytest.raises(DataError, match=r"f.txt, line 7: .*\[MASK\], found none in 'say \[mask\]'.*capital"):
        list(fill_mask(model, asked))


def test_a_long_text_is_refused_with_its_tokens_or_cut_if_asked(model):
    text = "[MASK] " + "a " * 70
    with pytest.raises(DataError, match=r"text 1: expected at most 64 tokens .*found 73\..*--truncate"):
        list(fill_mask(model, [text]))
    (cut,) = fill_mask(model, [text], truncate=True, top_k=2)
    (expected,) = fill_mask(model, ["[MASK] " + "a " * 61], top_k=2)
    assert cut.masks == expected.masks
    with pytest.raises(DataError, match=r"every \[MASK\] among the first 62 tokens, found 0 of 1"):
        list(fill_mask(model, ["a " * 70 + "[MASK]"], truncate=True))


def test_a_text_that_just_fits_is_taken(model):
    assert len(list(fill_mask(model, ["[MASK] " + "a " * 61]))) == 1


def test_a_model_without_a_head_is_refused_before_any_text_is_read(tmp_path):
    headless = load_model(case.write_model(tmp_path / "m", with_heads=False), device="cpu")
    with pytest.raises(ModelError, match="needs a trained mlm head"):
        fill_mask(headless, ["[MASK]"])


@pytest.mark.parametrize(
    ("drawn", "objectives", "is_refused"),
    [
        (["mlm_head"], {"mlm": 0.0, "contrastive": 1.0, "mlm_end": None}, True),
        (["mlm_head"], None, True),
        (["mlm_head"], {"mlm": 0.7, "contrastive": 0.3}, False),
        (["mlm_head"], {"mlm": 0.0, "mlm_end": 0.5}, False),
        (["nsp_head"], {"mlm": 0.0, "contrastive": 1.0}, False),
    ],
)
def test_a_head_that_was_never_trained_is_not_asked(tmp_path, drawn, objectives, is_refused):
    at = case.write_model(tmp_path / "m")
    case.write_manifest(at, drawn=drawn, objectives=objectives)
    model = load_model(at, device="cpu")
    if is_refused:
        with pytest.raises(ModelError, match="needs a trained mlm head"):
            fill_mask(model, ["[MASK]"])
    else:
        assert len(list(fill_mask(model, ["[MASK]"]))) == 1


def test_weights_that_are_not_finite_are_named(tmp_path):
    at = case.write_model(tmp_path / "m")
    weights = load_file(at / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(weights, at / "model.safetensors", metadata={"format": "pt"})
    broken = load_model(at, device="cpu")
    with pytest.raises(ModelError, match="finite"):
        list(fill_mask(broken, ["[MASK]"]))
    with pytest.raises(ModelError, match="finite"):
        vectors.vectors_of(broken, ["harq"])


def test_a_decoder_of_its_own_is_refused(tmp_path):
    at = case.write_model(tmp_path / "m", tie_word_embeddings=False)
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        fill_mask(load_model(at, device="cpu"), ["[MASK]"])


def test_a_tokenizer_larger_than_the_embeddings_is_refused(tmp_path):
    at = case.write_model(tmp_path / "m", vocab_size=len(tiny.vocabulary()) - 1)
    with pytest.raises(ModelError, match="Tokenizer and weights belong to different models"):
        load_model(at, device="cpu")


def test_more_rows_than_tokens_are_shown_as_such(tmp_path):
    n = len(tiny.vocabulary())
    loaded = load_model(case.write_model(tmp_path / "m", vocab_size=n + 3), device="cpu")
    (filled,) = fill_mask(loaded, ["[MASK]"], top_k=n + 3)
    assert f"[no entry {n + 2}]" in {c.token for c in filled.masks[0]}


def test_batches_hold_every_sequence_once_the_longest_first():
    lengths = np.array([3, 9, 1, 9, 0, 4])
    batches = batches_by_length(lengths, 12)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    assert [length for b in batches for length in lengths[b]] == [9, 9, 4, 3, 1, 0]
    assert len(batches) > 2
    assert all((lengths[b] + 2).sum() <= 12 + lengths.max() + 2 for b in batches)
    assert batches_by_length(np.empty(0, np.int64), 12) == []


# -- vectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_transformers_pooled_as_the_folder_says(tmp_path, pooling):
    at = case.write_model(tmp_path / "m")
    (at / "1_Pooling").mkdir()
    (at / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": pooling == "cls"}))
    loaded = load_model(at, device="cpu")
    found = vectors.vectors_of(loaded, case.WORDS, normalize=False)
    expected = np.stack([hf_vector(at, word, pooling) for word in case.WORDS])
    assert found == pytest.approx(expected, abs=1e-5)
    unit = vectors.vectors_of(loaded, case.WORDS)
    assert unit == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-5)


@pytest.mark.parametrize("name", ["pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens"])
def test_a_pooling_that_we_do_not_make_is_refused(tmp_path, name):
    at = case.write_model(tmp_path / "m")
    (at / "1_Pooling").mkdir()
    told = {"pooling_mode_mean_tokens": name == "pooling_mode_max_tokens", name: True}
    (at / "1_Pooling" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=f"expected pooling_mode_mean_tokens or .*found .*{name}"):
        vectors.vectors_of(load_model(at, device="cpu"), ["a"])


def test_a_mask_in_a_text_to_encode_is_text(model):
    assert model.encode(["[MASK]"]) != [[model.specials.mask]]
    assert len(model.encode(["[MASK]"])[0]) > 1


def test_similarity_is_the_cosine_of_the_vectors_in_the_order_of_the_pairs(folder, model, monkeypatch):
    monkeypatch.setattr(vectors, "_PAIRS_AT_ONCE", 3)
    pairs = [(a, b) for a in case.WORDS[:3] for b in case.WORDS[:3]]
    found = list(vectors.similarity(model, pairs))
    of = {w: hf_vector(folder, w, "mean") for w in case.WORDS[:3]}
    for (a, b), one in zip(pairs, found, strict=True):
        expected = of[a] @ of[b] / np.linalg.norm(of[a]) / np.linalg.norm(of[b])
        assert (one.a, one.b) == (a, b)
        assert one.cosine == pytest.approx(expected, abs=1e-5)
        assert one.cosine <= 1
    assert [one.where for one in found] == [f"pair {i}" for i in range(1, 10)]


def test_saved_vectors_are_the_vectors_in_both_formats(model, tmp_path):
    texts = [f"{word} {i}" for i in range(300) for word in case.WORDS]
    expected = vectors.vectors_of(model, texts, normalize=False)
    done = []
    for name in ("v.parquet", "v.npy"):
        n = vectors.save_vectors(
            model, iter(texts), tmp_path / name, normalize=False, on_texts=lambda some: done.append(len(some))
        )
        assert n == len(texts)
    assert sum(done) == 2 * len(texts)
    assert len(done) > 2
    saved = pq.read_table(tmp_path / "v.parquet")
    assert saved["text"].to_pylist() == texts
    kind = saved.schema.field("vector").type
    assert (kind.list_size, str(kind.value_type)) == (32, "float")
    assert np.stack(saved["vector"].to_numpy()) == pytest.approx(expected, abs=1e-5)
    array = np.load(tmp_path / "v.npy")
    assert array.dtype == np.float32
    assert array == pytest.approx(expected, abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.npy", "v.parquet"]


@pytest.mark.parametrize("name", ["v.parquet", "v.npy"])
def test_a_text_that_is_refused_leaves_no_file_and_the_old_one_whole(model, tmp_path, name):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(DataError, match="text 2001"):
        vectors.save_vectors(model, [*["a"] * 2000, "a " * 70], tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_output_of_another_kind_is_refused(model, tmp_path):
    with pytest.raises(DataError, match=r"\.parquet or \.npy"):
        vectors.save_vectors(model, ["a"], tmp_path / "v.csv")


# -- neighbours and search ---------------------------------------------------------------------------------------------


def brute(folder, query, texts, k):
    """Sort all texts by cosine, one vector at a time."""
    q = hf_vector(folder, query, "mean").astype(np.float64)
    of = [hf_vector(folder, t, "mean").astype(np.float64) for t in texts]
    cosine = [float(q @ v / np.linalg.norm(q) / np.linalg.norm(v)) for v in of]
    return sorted(zip(cosine, texts, strict=True), reverse=True)[:k]


def test_neighbours_are_the_nearest_words_and_never_the_word_itself(folder, model):
    space = neighbours.word_space(model, case.WORDS)
    found = space.nearest(["harq", "LDPC", "unheard of"], 3)
    for query, nearest in zip(["harq", "ldpc", "unheard of"], found, strict=True):
        expected = brute(folder, query, [w for w in case.WORDS if w != query], 3)
        assert [n.word for n in nearest] == [word for _, word in expected]
        assert [n.cosine for n in nearest] == pytest.approx([c for c, _ in expected], abs=1e-5)
    assert [len(space.nearest([w], 100)[0]) for w in ("harq", "unheard of")] == [len(case.WORDS) - 1, len(case.WORDS)]


def test_words_in_pieces_are_counted_and_the_same(model, monkeypatch):
    whole = neighbours.word_space(model, case.WORDS).vectors
    monkeypatch.setattr(neighbours, "_WORDS_AT_ONCE", 3)
    done = []
    assert torch.allclose(
        neighbours.word_space(model, case.WORDS, on_words=lambda *n: done.append(n)).vectors, whole, atol=1e-5
    )
    assert done == [(3, 8), (3, 8), (2, 8)]
    with pytest.raises(DataError, match="at least one word"):
        neighbours.word_space(model, [])


def words_table(path):
    words = {
        "word_id": np.arange(4, dtype=np.uint32),
        "word": ["harq", "for", "rlc", "house"],
        "n_lines": np.array([3, 9, 2, 0], np.uint64),
        "n_files": np.ones(4, np.uint32),
        "token_ids": tables.list_column(tables.WORDS, "token_ids", [[1]] * 4),
        "n_pieces_before": np.ones(4, np.uint8),
        "in_english": [False, False, False, True],
        "in_code": [True, True, True, False],
    }
    tables.write(path, tables.WORDS, words, provenance={})


def test_words_come_from_the_table_without_keywords_or_from_lines(tmp_path):
    words_table(tmp_path / "words.parquet")
    (tmp_path / "words.txt").write_text("harq\n\n rlc \nharq\n")
    assert neighbours.read_words(tmp_path / "words.parquet") == ["harq", "rlc"]
    assert neighbours.read_words(tmp_path / "words.txt") == ["harq", "rlc"]
    with pytest.raises(DataError, match="--words"):
        neighbours.read_words(tmp_path / "none")


def exported(run, *, weights, inputs="abc"):
    """Write words with vectors that no model would give, as the stage explore does."""
    rows = {
        "word_id": np.arange(2, dtype=np.uint32),
        "word": ["first", "second"],
        "n_lines": np.ones(2, np.uint64),
        "area": ["x", "x"],
        "vector": tables.list_column(tables.EXPLORED_VECTORS, "vector", list(np.eye(32, dtype=np.float32)[:2])),
    }
    path = run / "vectors" / "vectors.parquet"
    tables.write(path, tables.EXPLORED_VECTORS, rows, provenance={"inputs": "abc"})
    (run / "explore.json").write_text(json.dumps({"models_sha256": {"run": weights}, "inputs": inputs}))


def test_exported_vectors_serve_only_the_model_that_made_them(tmp_path):
    loaded = load_model(case.write_model(tmp_path / "run" / "final"), device="cpu")
    words_table(tmp_path / "words.parquet")
    weights = sha256_file(loaded.folder / "model.safetensors")
    exported(tmp_path / "run", weights=weights)
    space = neighbours.space_of(loaded, default=tmp_path / "words.parquet")
    assert space.words == ["first", "second"]
    assert torch.equal(space.vectors, torch.eye(32)[:2])
    assert neighbours.space_of(loaded, tmp_path / "words.parquet").words == ["harq", "rlc"]
    for changes in ({"weights": "0" * 64}, {"weights": weights, "inputs": "other"}):
        exported(tmp_path / "run", **changes)
        assert neighbours.space_of(loaded, default=tmp_path / "words.parquet").words == ["harq", "rlc"]


PASSAGES = [f"{a} {b} {i}" for i, (a, b) in enumerate((x, y) for x in tiny.WORDS for y in tiny.WORDS[:3])]


def test_search_finds_what_comparing_everything_finds_however_the_passages_come(folder, model):
    expected = brute(folder, "harq beam", PASSAGES, 5)
    for step in (3, 7, 1000):
        among = [
            vectors.EncodedTexts([AskedText(t, f"line {t}") for t in some], vectors.vectors_of(model, some))
            for some in (PASSAGES[at : at + step] for at in range(0, len(PASSAGES), step))
        ]
        (hits,) = searching.search(model, ["harq beam"], among, top_k=5)
        assert [h.text for h in hits] == [text for _, text in expected]
        assert [h.cosine for h in hits] == pytest.approx([c for c, _ in expected], abs=1e-5)
        assert all(h.where == f"line {h.text}" for h in hits)


def test_of_equal_passages_the_earlier_comes_first_across_pieces(model):
    one = vectors.vectors_of(model, ["harq"])
    among = [vectors.EncodedTexts([AskedText("harq", f"{i}")], one) for i in range(4)]
    (hits,) = searching.search(model, ["harq"], among, top_k=3)
    assert [h.where for h in hits] == ["0", "1", "2"]


@pytest.mark.parametrize("normalize", [True, False])
def test_saved_vectors_are_searched_as_the_texts_are(model, tmp_path, normalize):
    (tmp_path / "t.txt").write_text("\n".join(PASSAGES))
    texts = list(searching.passages(model, tmp_path / "t.txt"))
    vectors.save_vectors(model, [t for some in texts for t in some.texts], tmp_path / "v.parquet", normalize=normalize)
    (a,) = searching.search(model, ["harq"], texts, top_k=4)
    (b,) = searching.search(model, ["harq"], searching.passages(model, tmp_path / "v.parquet"), top_k=4)
    assert [(h.text, h.where) for h in a] == [(h.text, h.where) for h in b]
    assert [h.cosine for h in a] == pytest.approx([h.cosine for h in b], abs=1e-5)


def test_vectors_of_another_model_are_refused(model, tmp_path):
    vectors.save_vectors(model, ["a"], tmp_path / "v.parquet")
    other = load_model(case.write_model(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(DataError, match="expected vectors of the model"):
        list(searching.passages(other, tmp_path / "v.parquet"))


def test_functions_are_searched_by_comment_and_code_and_named_by_place(model, tmp_path):
    columns = {
        "function_id": np.arange(2, dtype=np.uint32),
        "file_id": np.array([0, 1], np.uint32),
        "first_line": np.array([3, 7], np.uint32),
        "last_line": np.array([5, 9], np.uint32),
        "name": ["f", "g"],
        "brief": ["Returns harq.", ""],
        "code": ["def f(): harq", "def g(): " + "beam " * 100],
    }
    tables.write(tmp_path / "functions.parquet", tables.FUNCTIONS, columns, provenance={})
    found = searching.search(model, ["harq"], searching.passages(model, tmp_path / "functions.parquet"))[0]
    assert {h.where: h.text for h in found} == {
        "file 0:3-5 f": "Returns harq.\ndef f(): harq",
        "file 1:7-9 g": columns["code"][1].strip(),
    }


# -- predict -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression", None])
def test_predictions_are_those_of_transformers(tmp_path, problem):
    labels = ("good", "bad", "worse") if problem != "regression" else ("score",)
    at = case.write_classifier(tmp_path / "c", labels, problem_type=problem)
    theirs = AutoModelForSequenceClassification.from_pretrained(str(at)).eval()
    change = {"regression": lambda x: x, "multi_label_classification": torch.sigmoid}.get(
        problem, lambda x: torch.softmax(x, -1)
    )
    classifier = load_classifier(at, device="cpu")
    for text, found in zip(case.WORDS, predict(classifier, case.WORDS), strict=True):
        with torch.no_grad():
            expected = change(theirs(**hf_ids(at, text)).logits[0])
        assert {s.label: s.score for s in found.scores} == pytest.approx(
            dict(zip(labels, expected.tolist(), strict=True)), abs=1e-5
        )
        assert found.text == text
        assert [s.score for s in found.scores] == sorted((s.score for s in found.scores), reverse=True)


def test_the_likeliest_classes_only(tmp_path):
    classifier = load_classifier(case.write_classifier(tmp_path / "c", tuple("abcde")), device="cpu")
    whole, cut = (next(iter(predict(classifier, ["harq"], top_k=k))) for k in (None, 2))
    assert cut.scores == whole.scores[:2]


@pytest.mark.parametrize("change", ["no_head", "labels", "twice", "none", "shape", "scalar", "problem"])
def test_a_folder_that_is_no_classifier_is_refused(tmp_path, change):
    at = case.write_classifier(tmp_path / "c", ("a", "b", "c"))
    if change == "no_head":
        at = case.write_model(tmp_path / "m")
    config = json.loads((at / "config.json").read_text())
    if change == "labels":
        config["id2label"] = {"0": "a", "1": "b"}
    if change == "twice":
        config["id2label"] = {"0": "a", "1": "b", "2": "b"}
    if change == "none":
        config["id2label"] = {"0": "a", "1": None, "2": ["b"]}
    if change == "problem":
        config["problem_type"] = "guess"
    (at / "config.json").write_text(json.dumps(config))
    if change in ("shape", "scalar"):
        weights = load_file(at / "model.safetensors")
        weights["classifier.weight"] = torch.zeros(3, 5) if change == "shape" else torch.tensor(0.0)
        weights["classifier.bias"] = torch.zeros(3) if change == "shape" else torch.tensor(0.0)
        save_file(weights, at / "model.safetensors", metadata={"format": "pt"})
    words = {
        "no_head": "classifier head, found none",
        "shape": "hidden size",
        "scalar": "hidden size",
        "problem": "problem_type",
    }
    with pytest.raises(ModelError, match=words.get(change, "3 different texts")):
        load_classifier(at, device="cpu")


_THEIRS = """
import json, sys
from sentence_transformers import SentenceTransformer
print("FOUND" + json.dumps(SentenceTransformer(sys.argv[1], device="cpu").encode(json.loads(sys.argv[2])).tolist()))
"""


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tmp_path):
    from commbert.nn.model import load_bert, save_for_others

    base, out = case.write_model(tmp_path / "base"), tmp_path / "out"
    out.mkdir()
    save_for_others(load_bert(base), base, out, pooling="mean")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [sys.executable, "-c", _THEIRS, str(out), json.dumps(case.WORDS)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=True)
    expected = np.array(json.loads(done.stdout.split("FOUND")[1]))
    assert vectors.vectors_of(load_model(out, device="cpu"), case.WORDS) == pytest.approx(expected, abs=1e-5)
