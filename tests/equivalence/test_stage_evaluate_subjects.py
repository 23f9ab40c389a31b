"""The evaluation of models, vectors and the frequency rule, against plain loops over the tables."""

import json
import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from commbert import tables
from commbert.artifacts import sha256_file
from commbert.baselines.vectors import write_vectors
from commbert.errors import DataError
from commbert.evaluation import meaning
from commbert.evaluation.controls import HARD_RUNGS
from commbert.evaluation.masked import masked_scores
from commbert.evaluation.scores import read_scores
from commbert.evaluation.words import read_evaluated_words, words_needed
from commbert.known import read_known
from commbert.nn.model import load_bert, special_ids, text_vectors
from commbert.rows import read_windows
from commbert.settings.evaluation import EvaluationSettings
from commbert.stages import evaluate
from commbert.stages.subjects import FrequencySubject, ModelSubject, VectorsSubject
from commbert.text.languages import KEYWORDS
from commbert.tokenization.encoding import encode_words, load_tokenizer

SETTINGS = EvaluationSettings(windows=20, retrieval_queries=10_000, random_pairs=500, bootstrap=100, neighbours=3)
CPU = torch.device("cpu")


def _evaluate(subject, data, out, *, settings=SETTINGS, split="test"):
    return evaluate.run(
        settings,
        subject=subject,
        data=data,
        split=split,
        out=out / "evaluation.json",
        scores_out=out / "evaluation.scores.parquet",
    )


@pytest.fixture(scope="module")
def data(stages, tmp_path_factory):
    """The tables of the small pipeline, with acronyms, and with functions over held-out lines of the test split."""
    at = tmp_path_factory.mktemp("texts")
    split = tables.read(stages.files, tables.FILES, ["split"])["split"].to_pylist()
    lines = tables.read(stages.line_words, tables.LINE_WORDS).to_pylist()
    last_line = {row["file_id"]: row["line_no"] for row in lines}
    rows = []
    for file_id, last in sorted(last_line.items()):
        for first in range(1, last, 9):
            number = len(rows)
            texts = {"name": f"f{number}", "brief": f"harq slot {number}", "code": f"rlc = mac_{number} ( beam )"}
            place = {"first_line": first, "last_line": min(first + 8, last)}
            rows.append({"function_id": number, "file_id": file_id, **place, **texts})
    assert {split[row["file_id"]] for row in rows} == {"validation", "test"}
    _write(at / "functions.parquet", tables.FUNCTIONS, rows)
    pairs = [("harq", "hybrid automatic repeat request"), ("mac", "medium access control"), ("ue", "user equipment")]
    rows = [{"acronym": a, "expansion": e, "n_lines": 2, "n_train_lines": int(a == "mac")} for a, e in pairs]
    _write(at / "acronyms.parquet", tables.ACRONYMS, rows)
    return replace(stages.evaluation, functions=at / "functions.parquet", acronyms=at / "acronyms.parquet")


def _write(path, table, rows):
    tables.write(path, table, {name: [row[name] for row in rows] for name in table.schema.names}, provenance={})


@pytest.fixture(scope="module")
def vectors(stages, tmp_path_factory):
    """A table of random unit vectors; some words are unknown to it."""
    n = tables.read(stages.evaluation.words, tables.WORDS, ["word"]).num_rows
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(n, 12)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[rng.choice(n, 5, replace=False)] = 0.0
    path = tmp_path_factory.mktemp("vectors") / "vectors.parquet"
    write_vectors(path, rows, provenance=_of_words(stages.evaluation))
    return path, rows


def _of_words(data):
    """Return what says whose words the rows of a table of vectors are."""
    return {"words": tables.content_digest(data.words)}


@pytest.fixture(scope="module")
def evaluated(stages, data, vectors, tmp_path_factory):
    """Folder and result of each kind of subject."""
    subjects = {
        "model": ModelSubject(stages.start, "mean", True, "cpu"),
        "vectors": VectorsSubject(vectors[0]),
        "frequency": FrequencySubject(),
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in subjects}
    return {name: (folders[name], _evaluate(subject, data, folders[name])) for name, subject in subjects.items()}


@pytest.fixture(scope="module")
def spaces(stages, vectors):
    """How near two words are, by each kind of subject, from the tables alone."""
    table = tables.read(stages.evaluation.words, tables.WORDS)
    n_lines, text = table["n_lines"].to_pylist(), table["word"].to_pylist()
    model = text_vectors(
        load_bert(stages.start),
        encode_words(load_tokenizer(stages.start), text),
        special_ids(stages.start),
        pooling="mean",
        device=CPU,
    ).numpy()
    return {
        "model": lambda a, b: float(np.dot(model[a], model[b])),
        "vectors": lambda a, b: float(np.dot(vectors[1][a].astype(np.float64), vectors[1][b])),
        "frequency": lambda _, b: float(n_lines[b]),
    }


def _partners(data, task, split="test"):
    """Collect the novel partners of each word, line by line or function by function."""
    words = tables.read(data.words, tables.WORDS)["word"].to_pylist()
    splits = tables.read(data.files, tables.FILES, ["split"])["split"].to_pylist()
    known = {(int(k) >> 32, int(k) & 0xFFFFFFFF) for k in read_known(data.known)}
    lines = [r for r in tables.read(data.line_words, tables.LINE_WORDS).to_pylist() if splits[r["file_id"]] == split]
    groups = [set(row["word_ids"]) for row in lines]
    if task == "function":
        groups = [
            {
                word
                for row in lines
                if row["file_id"] == f["file_id"] and f["first_line"] <= row["line_no"] <= f["last_line"]
                for word in row["word_ids"]
            }
            for f in tables.read(data.functions, tables.FUNCTIONS).to_pylist()
        ]
    found = {}
    for group in groups:
        for pair in combinations(sorted(w for w in group if words[w] not in KEYWORDS), 2):
            if pair not in known:
                found.setdefault(pair[0], set()).add(pair[1])
                found.setdefault(pair[1], set()).add(pair[0])
    return found, known


def _ranks(data, near, query, wanted, known):
    table = tables.read(data.words, tables.WORDS, ["word", "in_code"]).to_pylist()
    candidates = [
        i
        for i, row in enumerate(table)
        if row["in_code"] and row["word"] not in KEYWORDS and i != query and tuple(sorted((i, query))) not in known
    ]
    score = {c: near(query, c) for c in candidates}
    others = np.array(list(score.values()))
    return sorted(1 + (others > score[w]).sum() + ((others == score[w]).sum() - 1) / 2 for w in wanted)


@pytest.mark.parametrize("task", ["retrieval", "function"])
@pytest.mark.parametrize("subject", ["vectors", "frequency"])
def test_map_and_recall_are_those_of_plain_loops(evaluated, data, spaces, subject, task):
    partners, known = _partners(data, task)
    ranked = [_ranks(data, spaces[subject], query, wanted, known) for query, wanted in sorted(partners.items())]
    assert len(ranked) > 10
    expected = {
        "mrr": np.mean([1 / ranks[0] for ranks in ranked]),
        "map": np.mean([np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]) for ranks in ranked]),
        **{
            f"r{k}": np.mean([sum(rank <= k for rank in ranks) / min(k, len(ranks)) for ranks in ranked])
            for k in (1, 5, 10)
        },
    }
    folder, result = evaluated[subject]
    found = {name: result["figures"][f"{task}_{name}"]["value"] for name in expected}
    # A word that the table does not know has cosine 0 to all: half of its ties by exact arithmetic.
    assert found == pytest.approx(expected, rel=1e-9)
    assert result["retrieval"][task]["queries"] == len(ranked) == result["figures"][f"{task}_map"]["n"]
    assert sorted(read_scores(folder / "evaluation.scores.parquet")[f"{task}_map"].cluster) == sorted(partners)


@pytest.mark.parametrize("task", ["retrieval", "function"])
def test_the_popularity_beside_a_model_is_the_retrieval_of_the_frequency_rule(evaluated, task):
    by_frequency = evaluated["frequency"][1]["figures"][f"{task}_mrr"]["value"]
    for name in ("model", "vectors"):
        assert evaluated[name][1]["retrieval"][task]["popularity_mrr"] == pytest.approx(by_frequency, rel=1e-12)


@pytest.mark.parametrize("subject", ["vectors", "frequency"])
@pytest.mark.parametrize("rung", ["english", "random_code", "frequency_matched", "lexical"])
def test_the_auc_of_a_rung_is_the_share_of_won_comparisons(evaluated, data, spaces, subject, rung):
    rows = tables.read(data.pairs, tables.PAIRS).to_pylist()
    near = spaces[subject]
    groups = np.cumsum([row["label"] for row in rows]) - 1
    positives = [row for row in rows if row["label"]]
    negative = [(near(r["word_id_a"], r["word_id_b"]), groups[i]) for i, r in enumerate(rows) if r["kind"] == rung]
    if not negative:
        assert evaluated[subject][1]["figures"][f"auc_{rung}"] is None
        return
    p = np.array([near(positives[g]["word_id_a"], positives[g]["word_id_b"]) for _, g in negative])[:, None]
    n = np.array([value for value, _ in negative])[None, :]
    expected = ((p > n + 1e-12) + 0.5 * (abs(p - n) <= 1e-12)).mean()
    assert evaluated[subject][1]["figures"][f"auc_{rung}"]["value"] == pytest.approx(expected, abs=1e-9)


def test_what_only_a_language_model_has_is_not_measured_of_others(evaluated):
    for name in ("vectors", "frequency"):
        result = evaluated[name][1]
        assert result["mlm_reason"] == "no language model"
        assert (result["unigram"], result["pooling"], result["model_sha256"]) == (None, None, None)
        kinds = ("mlm", "general", "acronym", "term", "brief")
        assert [n for n, f in result["figures"].items() if f and n.startswith(kinds)] == []
        assert result["subject"] == name
    assert evaluated["model"][1]["mlm_reason"] == ""


def test_the_frequency_rule_has_no_geometry_no_neighbours_and_no_opposites(evaluated):
    result = evaluated["frequency"][1]
    assert (result["geometry"], result["neighbours"], result["opposites"]) == (None, {}, None)
    assert result["controls"]["random_code"]["classifier"] is None
    assert result["controls"]["random_code"]["blind"] == result["controls"]["random_code"]["frequency"]
    assert result["controls"]["random_code"]["frequency"] == result["figures"]["auc_random_code"]["value"]


@pytest.mark.parametrize("subject", ["model", "vectors"])
def test_neighbours_are_the_nearest_words_and_never_a_keyword_or_the_word_itself(evaluated, data, spaces, subject):
    words = tables.read(data.words, tables.WORDS, ["word", "in_code"]).to_pylist()
    candidates = [i for i, row in enumerate(words) if row["in_code"] and row["word"] not in KEYWORDS]
    number = {row["word"]: i for i, row in enumerate(words)}
    told = evaluated[subject][1]["neighbours"]
    assert 0 < len(told) <= 12
    for word, near in told.items():
        assert word not in [n for n, _ in near]
        assert not KEYWORDS & {n for n, _ in near}
        cosine = sorted((spaces[subject](number[word], c) for c in candidates if c != number[word]), reverse=True)
        assert [c for _, c in near] == pytest.approx(cosine[:3], abs=2e-4)
        assert [c for _, c in near] == pytest.approx(
            [spaces[subject](number[word], number[n]) for n, _ in near], abs=2e-4
        )


def test_telling_words_are_those_of_the_settings_that_the_code_has(data, vectors, tmp_path):
    settings = SETTINGS.model_copy(update={"telling_words": ("no_such_word", "def", "harq_index", "the")})
    found = _evaluate(VectorsSubject(vectors[0]), data, tmp_path, settings=settings)
    in_code = [w for w in ("harq_index",) if w in read_evaluated_words(data.words).text]
    assert [w for w in found["neighbours"] if w != "the"] == in_code == ["harq_index"]


def test_strata_hold_all_rows_of_a_hard_rung_once_for_each_kind(evaluated):
    for name, kinds in (("model", 2), ("vectors", 1), ("frequency", 1)):
        result = evaluated[name][1]
        assert {s["rung"] for s in result["strata"]} == set(HARD_RUNGS)
        assert len({s["by"] for s in result["strata"]}) == kinds
        for rung in HARD_RUNGS:
            for by in {s["by"] for s in result["strata"]}:
                rows = [s for s in result["strata"] if (s["rung"], s["by"]) == (rung, by)]
                assert sum(s["n"] for s in rows) == result["controls"][rung]["n"]
                assert all((s["auc"] is None) == (s["n"] == 0) for s in rows)


def test_a_stratum_is_the_auc_of_the_positives_whose_rarer_word_is_as_frequent(evaluated, data, spaces):
    rows = tables.read(data.pairs, tables.PAIRS).to_pylist()
    n_lines = tables.read(data.words, tables.WORDS)["n_lines"].to_pylist()
    strata = [s for s in evaluated["vectors"][1]["strata"] if s["rung"] == "frequency_matched" and s["auc"]]
    edges = {"0 lines": (0, 0), "1 to 9 lines": (1, 9), "10 to 99 lines": (10, 99), "100 lines or more": (100, 10**9)}
    for stratum in strata:
        low, high = edges[stratum["bucket"]]
        pairs, positive = [], None
        for row in rows:
            positive = row if row["label"] else positive
            if row["kind"] == "frequency_matched":
                rarer = min(n_lines[positive["word_id_a"]], n_lines[positive["word_id_b"]])
                if low <= rarer <= high:
                    pairs.append([spaces["vectors"](r["word_id_a"], r["word_id_b"]) for r in (positive, row)])
        p, n = np.array(pairs).T
        expected = np.mean([(p[i] > x + 1e-12) + 0.5 * (abs(p[i] - x) <= 1e-12) for i in range(len(p)) for x in n])
        assert stratum["n"] == len(pairs)
        assert stratum["auc"]["value"] == pytest.approx(expected, abs=1e-9)
    assert strata


def test_collapsed_vectors_are_told_and_others_are_not(evaluated, data, vectors, tmp_path):
    rng = np.random.default_rng(0)
    rows = np.ones_like(vectors[1]) + rng.normal(scale=1e-3, size=vectors[1].shape).astype(np.float32)
    write_vectors(
        tmp_path / "v.parquet", rows / np.linalg.norm(rows, axis=1, keepdims=True), provenance=_of_words(data)
    )
    found = _evaluate(VectorsSubject(tmp_path / "v.parquet"), data, tmp_path)
    assert "all words point one way" in found["geometry"]["collapse"][0]
    assert evaluated["vectors"][1]["geometry"]["collapse"] == []


def test_a_model_that_gives_every_text_one_vector_is_measured_and_told(stages, data, tmp_path):
    folder = shutil.copytree(stages.start, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name in [n for n in weights if "LayerNorm" in n]:
        weights[name] = torch.full_like(weights[name], float(name.endswith("bias")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = _evaluate(ModelSubject(folder, "mean", True, "cpu"), data, tmp_path)
    assert len(found["geometry"]["collapse"]) == 2
    assert found["figures"]["auc_frequency_matched"]["value"] == pytest.approx(0.5, abs=0.02)
    assert found["figures"]["general_similarity"] is None


def test_words_without_a_vector_take_no_part_in_the_geometry(evaluated, data, vectors):
    words = read_evaluated_words(data.words)
    known = [i for i in words.candidates if vectors[1][i].any()]
    assert evaluated["vectors"][1]["geometry"]["words"] == len(known) < len(words.candidates)


def test_loss_per_word_and_per_character_are_those_of_the_tokens_text(stages, data):
    network, tokenizer = load_bert(stages.start), load_tokenizer(stages.start)
    windows = read_windows(data.windows).rows(np.arange(20))
    columns, found = masked_scores(
        network, tokenizer, special_ids(stages.start), windows, clusters=np.arange(20) + 7, seed=5, device=CPU
    )
    characters, shares = [], []
    for window, place, label in zip(found.window, found.place, found.label, strict=True):
        tokens = [tokenizer.id_to_token(int(i)) for i in windows[window]]
        assert tokens[place] == tokenizer.id_to_token(int(label))
        begin = place
        while begin and tokens[begin].startswith("##"):
            begin -= 1
        end = begin + 1
        while end < len(tokens) and tokens[end].startswith("##"):
            end += 1
        shares.append(1 / (end - begin))
        characters.append(len(tokens[place].replace("##", "")) if tokens[place] != "##" else 2)
    assert min(shares) < 1 == max(shares)
    assert columns["mlm_loss_per_word"].weight == pytest.approx(shares, rel=1e-15)
    assert columns["mlm_loss_per_char"].weight.tolist() == characters
    assert columns["mlm_loss"].cluster.tolist() == (found.window + 7).tolist()
    assert columns["mlm_top5"].value.tolist() == [float(rank < 5) for rank in found.rank]


def test_mlm_figures_are_sums_over_sums_of_the_scores(evaluated):
    folder, result = evaluated["model"]
    scores = read_scores(folder / "evaluation.scores.parquet")
    for name in ("mlm_loss_per_char", "mlm_loss_per_word", "general_mlm_loss_per_char", "general_mlm_loss_per_word"):
        value = sum(scores[name].value) / sum(scores[name].weight)
        assert result["figures"][name]["value"] == pytest.approx(value, rel=1e-12)
    assert not np.allclose(scores["mlm_loss_per_word"].weight, scores["mlm_loss_per_char"].weight)


@pytest.mark.parametrize("task", ["acronym", "term"])
def test_acronym_figures_are_the_means_of_both_directions(evaluated, data, stages, task):
    folder, result = evaluated["model"]
    pairs = [(r["acronym"], r["expansion"]) for r in tables.read(data.acronyms, tables.ACRONYMS).to_pylist()]
    pairs = pairs if task == "acronym" else meaning.read_terms(data.terms)
    network, tokenizer, specials = load_bert(stages.start), load_tokenizer(stages.start), special_ids(stages.start)
    sides = [
        text_vectors(network, encode_words(tokenizer, list(texts)), specials, pooling="mean", device=CPU).double()
        for texts in zip(*pairs, strict=True)
    ]
    ranks = []
    for queries, candidates, answers, asked in ((0, 1, 1, 0), (1, 0, 0, 1)):
        distinct = {pair[answers]: row for row, pair in enumerate(pairs)}
        for row, pair in enumerate(pairs):
            right = {p[answers] for p in pairs if p[asked] == pair[asked]} - {pair[answers]}
            own = float(sides[queries][row] @ sides[candidates][row])
            others = [
                float(sides[queries][row] @ sides[candidates][r])
                for text, r in distinct.items()
                if text not in right and text != pair[answers]
            ]
            ranks.append(1 + sum(o > own + 1e-7 for o in others) + sum(abs(o - own) <= 1e-7 for o in others) / 2)
    scores = read_scores(folder / "evaluation.scores.parquet")
    assert result[task]["pairs"] == len(pairs)
    assert result["figures"][f"{task}_mrr"]["value"] == pytest.approx(np.mean([1 / r for r in ranks]), rel=1e-3)
    assert result["figures"][f"{task}_mrr"]["value"] == pytest.approx(scores[f"{task}_mrr"].value.mean(), rel=1e-12)
    assert result["figures"][f"{task}_r1"]["value"] == pytest.approx(scores[f"{task}_r1"].value.mean(), rel=1e-12)
    one_way = (result[task]["to_expansion_mrr"] + result[task]["to_acronym_mrr"]) / 2
    assert result["figures"][f"{task}_mrr"]["value"] == pytest.approx(one_way, rel=1e-12)
    assert scores[f"{task}_mrr"].cluster.tolist() == [*range(len(pairs)), *range(len(pairs))]
    if task == "acronym":
        # All but mac, which a line of training defines; what is looked among stays the same.
        novel = scores["acronym_mrr_novel"]
        assert novel.cluster.tolist() == [0, 2, 0, 2]
        expected = np.mean([1 / ranks[i] for i in (0, 2, 3, 5)])
        assert result["figures"]["acronym_mrr_novel"]["value"] == pytest.approx(expected, rel=1e-3)
        assert result["acronym"]["novel"] == 2


def test_briefs_are_asked_of_the_functions_of_the_split_and_clustered_by_file(evaluated, data):
    folder, result = evaluated["model"]
    splits = tables.read(data.files, tables.FILES, ["split"])["split"].to_pylist()
    mine = [f for f in tables.read(data.functions, tables.FUNCTIONS).to_pylist() if splits[f["file_id"]] == "test"]
    scores = read_scores(folder / "evaluation.scores.parquet")
    assert result["briefs"]["functions"] == result["briefs"]["asked"] == len(mine) > 1
    assert scores["brief_mrr"].cluster.tolist() == [f["file_id"] for f in mine]
    assert result["figures"]["brief_mrr"]["value"] == pytest.approx(scores["brief_mrr"].value.mean(), rel=1e-12)
    assert scores["brief_r1"].value.tolist() == (scores["brief_mrr"].value == 1).astype(float).tolist()


def test_general_similarity_correlates_cosines_with_relations(evaluated, data, stages):
    rows = meaning.read_similarity(data.similarity)
    folder, _ = evaluated["model"]
    column = read_scores(folder / "evaluation.scores.parquet")["general_similarity"]
    tokenizer, texts = load_tokenizer(stages.start), [(r.a, r.b) for r in rows]
    flat = encode_words(tokenizer, [text for pair in texts for text in pair])
    vectors = text_vectors(load_bert(stages.start), flat, special_ids(stages.start), pooling="mean", device=CPU)
    assert column.weight.tolist() == [row.relation for row in rows]
    assert column.value == pytest.approx((vectors[0::2] * vectors[1::2]).sum(1).double().numpy(), abs=1e-5)


def test_vectors_of_another_vocabulary_are_refused_in_one_line(data, vectors, tmp_path):
    for rows, provenance, expected in (
        (vectors[1][:-1], _of_words(data), f"expected a vector for each of {len(vectors[1])} words, found"),
        (vectors[1], {"words": "0123456789abcdef"}, "expected vectors of the words of .*, found those of others"),
        (vectors[1], {}, "expected vectors of the words of .*, found those of others"),
    ):
        write_vectors(tmp_path / "v.parquet", rows, provenance=provenance)
        with pytest.raises(DataError, match=expected) as caught:
            _evaluate(VectorsSubject(tmp_path / "v.parquet"), data, tmp_path / "out")
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_hard_rung_that_gives_itself_away_fails_with_the_reason_and_writes_nothing(data, tmp_path):
    n_lines = np.array(tables.read(data.words, tables.WORDS)["n_lines"].to_pylist())
    words = np.argsort(-n_lines, kind="stable")
    rows = []
    for i in range(60):  # every second word of a positive is frequent, that of its negative rare
        a, positive, negative = int(words[i % 7]), int(words[7 + i % 5]), int(words[-1 - i % 9])
        place = {"word_id_a": a, "file_id": 0, "line_no": i + 1}
        rows.append({**place, "word_id_b": positive, "label": 1, "kind": "same_line"})
        rows.append({**place, "word_id_b": negative, "label": 0, "kind": "frequency_matched"})
    _write(tmp_path / "pairs.parquet", tables.PAIRS, rows)
    with pytest.raises(DataError) as caught:
        _evaluate(FrequencySubject(), replace(data, pairs=tmp_path / "pairs.parquet"), tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'pairs.parquet'}: rung frequency_matched: ")
    assert "a rule that never sees the first word (frequency) reaches an AUC of 1.000" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_another_split_is_measured_on_its_own_pairs_lines_functions_and_windows(stages, data, evaluated, tmp_path):
    heldout = replace(data, pairs=stages.data.validation_pairs, windows=stages.data.validation_windows)
    subject = ModelSubject(stages.start, "mean", True, "cpu")
    found = _evaluate(subject, heldout, tmp_path, split="validation")
    partners, _ = _partners(data, "retrieval", "validation")
    assert (found["split"], evaluated["model"][1]["split"]) == ("validation", "test")
    assert found["retrieval"]["retrieval"]["words_with_partners"] == len(partners)
    splits = tables.read(data.files, tables.FILES, ["split"])["split"].to_pylist()
    mine = [
        f for f in tables.read(data.functions, tables.FUNCTIONS).to_pylist() if splits[f["file_id"]] == "validation"
    ]
    assert found["briefs"]["functions"] == len(mine)
    assert found["inputs"] != evaluated["model"][1]["inputs"]


@pytest.mark.parametrize("subject", ["model", "vectors", "frequency"])
def test_evaluating_twice_gives_the_same_bytes(stages, data, vectors, evaluated, tmp_path, subject):
    again = {
        "model": ModelSubject(stages.start, "mean", True, "cpu"),
        "vectors": VectorsSubject(vectors[0]),
        "frequency": FrequencySubject(),
    }
    _evaluate(again[subject], data, tmp_path)
    for name in ("evaluation.json", "evaluation.scores.parquet"):
        assert sha256_file(tmp_path / name) == sha256_file(evaluated[subject][0] / name)


def test_what_is_printed_is_what_is_returned(evaluated):
    for folder, result in evaluated.values():
        assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))


def test_all_words_of_the_code_and_the_others_of_the_pairs_are_needed_once(data):
    words = read_evaluated_words(data.words)
    found = words_needed(words, [words.n_code + 3, 1], np.array([words.n_code + 3]))
    assert found.tolist() == [*range(words.n_code), words.n_code + 3]
