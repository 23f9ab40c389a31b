"""Two models on the same data: the same words are hidden, figures by an independent way, and honest gaps."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import BertForMaskedLM

import tiny
from cli_case import assert_refused, commbert
from commbert.artifacts import sha256_file
from commbert.errors import DataError
from commbert.evaluation import meaning
from commbert.evaluation.bootstrap import Estimate, mean_resamples
from commbert.inference import comparedfiles
from commbert.inference.choosing import choose_all
from commbert.inference.comparedfiles import ComparedFile, read_labelled_pairs, read_texts, told_file
from commbert.inference.comparedtables import markdown
from commbert.inference.comparing import _embed, compare
from commbert.inference.comparison import Row
from commbert.inference.models import load_model
from commbert.inference.questions import read_questions
from commbert.inference.wholewords import _merged, cut, hidden_words, word_scores
from tiny_stages import RESOURCES

torch.set_num_threads(1)
TEXTS = [
    "The scheduler grants resources, as the MAC layer asks.",
    "harq_process = mac.index[7]  # the number of people",
    "A beam of water in the house!",
    "手机 and 手 water",
    "table " * 80,
]


def write_model(folder, *entries, **options):
    """Write a model whose vocabulary has further entries."""
    plain = tiny.vocabulary
    try:
        vocabulary = [*plain(), *entries]
        tiny.vocabulary = lambda: vocabulary
        return tiny.write_base_model(folder, initializer_range=0.5, **options)
    finally:
        tiny.vocabulary = plain


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    return {
        "a": write_model(at / "a", with_heads=True),
        "b": write_model(at / "b", "harq", "scheduler", "water##", "手", with_heads=True, seed=1),
        "headless": write_model(at / "headless", seed=2),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture
def files(tmp_path):
    """One small file of each kind."""
    texts = {
        "text.txt": "\n".join(TEXTS[:3]) + "\n\n" + "the people return\n" * 20,
        "code.py": "harq = mac.index(7)\n\nif beam:\n    return harq\n" * 40,
        "q.csv": "question,A,B,answer,domain\n"
        + "".join(
            f"the ____ of {i},{a},{b},{'AB'[i % 2]},{d}\n"
            for i in range(6)
            for a, b, d in [("mac", "rlc harq", "x"), ("water", "table", "y")]
        ),
        "similar.csv": "a,b,relation\nhouse,water,1\nmac,rlc,3\nthe house,house,4\npeople,harq,0\ntime,table,2\n",
        "pairs.csv": "a,b,label\n" + "".join(f"word {i},thing {i * i},{i % 3 > 0:d}\n" for i in range(20)),
        "terms.csv": "acronym,expansion\nHARQ,hybrid automatic repeat\nMAC,medium access\nRLC,radio link\nUE,user\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {name: tmp_path / name for name in texts}


def run(models, files, *names, a="a", b="b", **options):
    asked = [told_file(str(files[name])) for name in names]
    return compare(models[a], models[b], asked, **{"n_resamples": 200, "seed": 5, **options})


def by_figure(comparison):
    return {row.figure: row for row in comparison.rows}


def test_words_are_what_no_tokenizer_cuts_across():
    spans = np.array([[0, 3], [4, 6], [6, 9], [0, 3], [4, 9], [10, 11]])
    begin, end = _merged(spans)
    assert list(zip(begin.tolist(), end.tolist(), strict=True)) == [(0, 3), (4, 9), (10, 11)]
    begin, _ = _merged(np.empty((0, 2), np.int64))
    assert len(begin) == 0


def test_both_models_are_asked_the_same_words(models):
    both = [models["a"], models["b"]]
    texts = cut(both, TEXTS)
    words = [TEXTS[1][b:e] for b, e in zip(texts[1].begin, texts[1].end, strict=True)]
    assert words == [
        "harq",
        "_",
        "process",
        "=",
        "mac",
        ".",
        "index",
        "[",
        "7",
        "]",
        "#",
        "the",
        "number",
        "of",
        "people",
    ]
    for text, source in zip(texts, TEXTS, strict=True):
        for model, tokens in zip(both, text.tokens, strict=True):
            for i, (b, e) in enumerate(zip(text.begin, text.end, strict=True)):
                pieces = [model.tokenizer.id_to_token(int(t)) for t in tokens.ids[tokens.word == i]]
                if text.is_known[i]:
                    assert "".join(p.removeprefix("##") for p in pieces) == source[b:e].lower()
    assert len(texts[1].tokens[0].ids) > len(texts[1].tokens[1].ids)  # harq is one piece to b


def test_a_word_unknown_to_one_model_is_hidden_from_neither(models):
    [text] = cut([models["a"], models["b"]], [TEXTS[3]])
    # 手 is an entry of b alone, 机 of none.
    assert text.is_known.tolist() == [False, False, True, False, True]
    for seed in range(20):
        [hidden] = hidden_words([text], seed=seed)
        assert set(hidden.tolist()) <= {2, 4}
        assert len(hidden)


def test_a_text_longer_than_the_positions_is_cut_at_a_word_for_both(models):
    long = "harq table " * 30
    [text] = cut([models["a"], models["b"]], [long])
    n_a, n_b = (len(tokens.ids) for tokens in text.tokens)
    assert n_a == 60  # 12 times four pieces and one; two tokens more would be half a word
    assert n_b == 24
    assert len(text.begin) == 24
    assert max(tokens.word.max() for tokens in text.tokens) == 23


def test_hidden_words_are_about_15_percent_and_follow_the_seed(models):
    texts = cut([models["a"], models["b"]], [" ".join(["table"] * 50)] * 200)
    hidden = hidden_words(texts, seed=1)
    share = sum(map(len, hidden)) / sum(len(text.begin) for text in texts)
    assert share == pytest.approx(0.15, abs=0.015)
    assert all(len(words) for words in hidden)
    assert [w.tolist() for w in hidden] == [w.tolist() for w in hidden_words(texts, seed=1)]
    assert [w.tolist() for w in hidden] != [w.tolist() for w in hidden_words(texts, seed=2)]


@pytest.mark.parametrize("which", [0, 1])
def test_word_scores_are_those_of_transformers_on_one_padded_text(models, which):
    both = [models["a"], models["b"]]
    texts = cut(both, TEXTS)
    hidden = hidden_words(texts, seed=4)
    found = word_scores(both[which], which, texts, hidden)
    theirs = BertForMaskedLM.from_pretrained(str(both[which].folder), attn_implementation="eager").eval()
    row = 0
    for number, (text, words) in enumerate(zip(texts, hidden, strict=True)):
        tokens = text.tokens[which]
        is_hidden = np.isin(tokens.word, words)
        ids = [2, *np.where(is_hidden, both[which].specials.mask, tokens.ids).tolist(), 3]
        attention = [1] * len(ids) + [0] * (64 - len(ids))
        with torch.no_grad():
            logits = theirs(
                torch.tensor([ids + [0] * (64 - len(ids))]), attention_mask=torch.tensor([attention])
            ).logits
        likelihood = torch.log_softmax(logits[0].double(), -1).numpy()
        for word in words:
            places = np.flatnonzero(tokens.word == word)
            losses = [-likelihood[1 + p, tokens.ids[p]] for p in places]
            ranks = [(likelihood[1 + p] > likelihood[1 + p, tokens.ids[p]]).sum() for p in places]
            assert found.loss_nats[row] == pytest.approx(sum(losses), abs=2e-5)
            assert (found.top1[row], found.top5[row]) == (max(ranks) < 1, max(ranks) < 5)
            assert found.text[row] == number
            assert found.n_tokens[row] == len(places)
            assert found.n_chars[row] == text.end[word] - text.begin[word]
            row += 1
    assert row == len(found.loss_nats)


def test_figures_of_hidden_words_are_sums_over_tokens_words_and_characters(models, files):
    found = by_figure(run(models, files, "text.txt"))
    both = [models["a"], models["b"]]
    texts = cut(both, read_texts(ComparedFile("text", files["text.txt"])))
    hidden = hidden_words(texts, seed=5)
    for side, which in (("a", 0), ("b", 1)):
        s = word_scores(both[which], which, texts, hidden)
        expected = {
            "MLM loss per token, nats": s.loss_nats.sum() / s.n_tokens.sum(),
            "MLM loss per word, nats": s.loss_nats.mean(),
            "MLM loss per character, nats": s.loss_nats.sum() / s.n_chars.sum(),
            "hidden words, first guess": s.top1.mean(),
            "hidden words, first five guesses": s.top5.mean(),
            "tokens per word": sum(len(t.tokens[which].ids) for t in texts) / sum(len(t.begin) for t in texts),
        }
        assert {name: getattr(row, side).value for name, row in found.items()} == pytest.approx(expected)
    for row in found.values():
        assert row.difference.value == pytest.approx(row.b.value - row.a.value)
        assert row.difference.low <= row.difference.value <= row.difference.high


def test_a_model_compared_with_itself_is_equal_in_everything(models, files):
    found = run(models, files, *files, b="a")
    assert len(found.rows) == 20
    assert {row.verdict for row in found.rows} == {"equal"}
    assert not found.notes


def test_a_paired_interval_is_that_of_the_difference(models, files):
    # Each text is resampled for both models at once: the interval is that of the differences alone.
    row = by_figure(run(models, files, "terms.csv"))["terms, MRR"]
    pairs = meaning.read_terms(files["terms.csv"])
    ranks = [meaning.acronym_ranks(_embed(models[name]), pairs) for name in "ab"]
    gain = [
        (b.reciprocal_rank - a.reciprocal_rank)
        for a, b in ((ranks[0].to_expansion, ranks[1].to_expansion), (ranks[0].to_acronym, ranks[1].to_acronym))
    ]
    per_pair = (gain[0] + gain[1]) / 2
    assert row.difference.value == pytest.approx(per_pair.mean())
    # A pair is asked in both directions and resampled as one.
    draws = mean_resamples(per_pair, np.arange(len(pairs)), weights=None, n_resamples=200, seed=5)
    assert (row.difference.low, row.difference.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_the_auc_is_that_of_scikit_learn(models, files):
    [row] = run(models, files, "pairs.csv").rows
    first, second, is_positive = read_labelled_pairs(files["pairs.csv"])
    for side in "ab":
        vectors = _embed(models[side])([*first, *second]).numpy()
        cosine = (vectors[: len(first)] * vectors[len(first) :]).sum(1)
        assert getattr(row, side).value == pytest.approx(roc_auc_score(is_positive, cosine))
        assert getattr(row, side).low < getattr(row, side).value < getattr(row, side).high


def test_similarity_is_spearmans_correlation(models, files):
    [row] = run(models, files, "similar.csv").rows
    graded = meaning.read_similarity(files["similar.csv"])
    found = meaning.similarity_correlation(_embed(models["b"]), graded, n_resamples=10, seed=0)
    assert row.b.value == pytest.approx(found.spearman.value)


def test_accuracies_are_those_of_choose(models, files):
    found = by_figure(run(models, files, "q.csv"))
    questions = read_questions(files["q.csv"]).questions
    choices = choose_all(models["b"], questions)
    right = [c.chosen == q.answer for c, q in zip(choices, questions, strict=True)]
    assert found["accuracy, all (chance 50%)"].b.value == pytest.approx(np.mean(right))
    of_x = [r for r, q in zip(right, questions, strict=True) if q.domain == "x"]
    assert found["accuracy, x (chance 50%)"].b.value == pytest.approx(np.mean(of_x))
    blind = [c.chosen_blindly == q.answer for c, q in zip(choices, questions, strict=True)]
    row = found["accuracy without the question (chance 50%)"]
    assert row.b.value == pytest.approx(np.mean(blind))
    assert row.better == ""


def test_questions_of_a_table_with_splits_are_told_by_split_too(models, tmp_path):
    rows = [(i, a, b, split) for i in range(4) for a, b, split in [("mac", "rlc", "train"), ("ue", "csi", "test")]]
    text = "".join(f"the ____ of {i},{a},{b},A,{split}\n" for i, a, b, split in rows)
    for column, expected in (("split", {"split train": 4, "split test": 4}), ("other", {})):
        path = tmp_path / f"{column}.csv"
        path.write_text(f"question,A,B,answer,{column}\n{text}", encoding="utf-8")
        found = compare(models["a"], models["b"], [ComparedFile("questions", path)], n_resamples=100)
        told = {row.figure.removeprefix("accuracy, ").removesuffix(" (chance 50%)"): row for row in found.rows}
        assert {name: row.b.n for name, row in told.items() if name.startswith("split")} == expected
    questions = [q for q in read_questions(tmp_path / "split.csv").questions if q.split == "test"]
    right = [c.chosen == q.answer for c, q in zip(choose_all(models["b"], questions), questions, strict=True)]
    rows = compare(models["a"], models["b"], [ComparedFile("questions", tmp_path / "split.csv")], n_resamples=100).rows
    [row] = [row for row in rows if "split test" in row.figure]
    assert row.b.value == pytest.approx(np.mean(right))


def test_questions_that_one_model_cannot_be_asked_are_asked_of_neither(models, tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,A,B,answer\nthe ____,mac,rlc,A\nthe ____,mac,手,A\n", encoding="utf-8")
    found = compare(models["a"], models["b"], [ComparedFile("questions", path)], n_resamples=100)
    assert [row.a.n for row in found.rows] == [row.b.n for row in found.rows] == [1, 1]
    assert any("1 of 2 questions cannot be asked of both" in note for note in found.notes)


def test_a_model_without_a_head_has_no_masked_figures_and_the_reason_stands_there(models, files):
    found = run(models, files, "text.txt", "q.csv", "terms.csv", a="headless", names=("before", "after"))
    for row in found.rows:
        if row.figure.startswith(("terms", "tokens")):
            assert row.difference is not None
            assert row.reason == ""
        else:
            assert row.a is None
            assert row.difference is None
            assert row.b is not None
            assert row.reason == "before: no trained MLM head"
    none = run(models, files, "text.txt", "q.csv", a="headless", b="headless")
    assert all(row.a is None and row.b is None for row in none.rows if row.figure != "tokens per word")


@pytest.mark.parametrize(
    ("better", "low", "high", "verdict"),
    [
        ("higher", 0.1, 0.2, "better"),
        ("higher", -0.2, -0.1, "worse"),
        ("lower", 0.1, 0.2, "worse"),
        ("lower", -0.2, -0.1, "better"),
        ("", 0.1, 0.2, "higher"),
        ("", -0.2, -0.1, "lower"),
        ("higher", -0.1, 0.2, "within noise"),
        ("higher", 0.0, 0.2, "within noise"),
        ("higher", 0.0, 0.0, "equal"),
        ("higher", math.nan, math.nan, ""),
    ],
)
def test_a_difference_counts_where_its_interval_leaves_out_0(better, low, high, verdict):
    one = Estimate(0.5, 0.4, 0.6, 3)
    assert Row("f", "k", "x", better, one, one, Estimate((low + high) / 2, low, high, 3)).verdict == verdict


def test_a_comparison_names_digests_and_whether_tokenizers_differ(models, files, folders):
    found = run(models, files, "terms.csv").as_dict()
    assert found["a"]["sha256"]["model.safetensors"] == sha256_file(folders["a"] / "model.safetensors")
    assert found["b"]["sha256"]["tokenizer.json"] == sha256_file(folders["b"] / "tokenizer.json")
    assert found["files"] == [{"path": "terms.csv", "kind": "terms", "sha256": sha256_file(files["terms.csv"])}]
    assert found["settings"] == {"bootstrap": 200, "seed": 5}
    assert "versions" in found["environment"]
    assert "The tokenizers differ" in found["notes"][0]
    json.dumps(found, allow_nan=False)


def test_the_command_writes_json_and_markdown_and_prints_a_table(folders, files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    out = tmp_path / "out"
    arguments = [folders["headless"], folders["b"], "--on", files["text.txt"], "--on", f"questions:{files['q.csv']}"]
    arguments += ["--bootstrap", "100", "--device", "cpu", "--name-a", "[red]a|b", "--threads", "1"]
    done = commbert("compare", *arguments, "--json", out / "c.json", "--markdown", out / "c.md")
    assert done.returncode == 0, done.stderr
    printed = capsys.readouterr().out
    assert "[red]a|b: no trained MLM head" in printed
    assert "tokens per word" in printed
    told = json.loads((out / "c.json").read_text())
    assert len(told["rows"]) == 10
    page = (out / "c.md").read_text()
    assert "&#91;red&#93;a&#124;b" in page
    assert "[red]" not in page
    assert commbert("compare", *arguments, "--json", "-").returncode == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rows"] == told["rows"]


def test_markdown_has_one_table_for_each_file(models, files):
    page = markdown(run(models, files, "text.txt", "terms.csv"))
    assert page.count("| figure | A | B |") == 2
    assert page.count("\n| terms, MRR |") == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("terms_3gpp.csv", "terms"),
        ("general_similarity.csv", "similarity"),
        ("questions_5g.csv", "questions"),
        ("general_text.txt", "text"),
    ],
)
def test_a_file_tells_its_kind(name, kind):
    assert told_file(str(RESOURCES / name)) == ComparedFile(kind, RESOURCES / name)
    assert told_file(f"text:{RESOURCES / name}").kind == "text"


def test_a_source_file_is_code_and_a_colon_in_a_path_is_no_kind(tmp_path):
    path = tmp_path / "a:b.py"
    path.write_text("x = 1\n")
    assert told_file(str(path)) == ComparedFile("code", path)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "x,y\n1,2\n", "expected columns that tell what the table is"),
        ("pairs.csv", "a,b,label\nx,y,1\n", "expected pairs of both labels, found 1"),
        ("pairs.csv", "a,b,label\nx,y,1\nx,,0\n", "line 3: expected two texts and a label of 0 or 1"),
        ("pairs.csv", "a,b,label\nx,y,1\nx,y,yes\n", "line 3: expected two texts and a label of 0 or 1, found 'yes'"),
        ("t.txt", "\n \n", "expected at least one line of text, found none"),
        ("t.txt", b"good\n\xff\n", "line 2: expected UTF-8"),
        ("t.txt", b"good\na\0b\n", "line 2: expected text, found a NUL byte"),
        ("t.py", b"a " * 2**19 + b"b\n", "line 1: expected a text of 1 MiB at most, found more"),
        ("q.csv", "question,A,B\nq,x,y\n", "expected questions with answers, found none"),
        ("none.txt", None, "expected a file to compare on, found none"),
    ],
)
def test_what_nothing_can_be_compared_on_is_refused(folders, tmp_path, name, text, told):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    out = tmp_path / "out.json"
    done = commbert("compare", folders["a"], folders["b"], "--on", path, "--device", "cpu", "--json", out)
    assert_refused(done, out, told)


def test_code_is_read_in_pieces_of_lines_and_long_files_evenly(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_text("".join(f"    line_{i:04d} = {i:04d}\n\n" for i in range(100)))
    pieces = read_texts(ComparedFile("code", path))
    assert sum(piece.count("line_") for piece in pieces) == 100
    assert all(len(piece) <= 600 for piece in pieces)
    assert len(pieces) < 6
    monkeypatch.setattr(comparedfiles, "MOST_TEXTS", 10)
    few = read_texts(ComparedFile("text", path))
    assert [int(line.split("= ")[1]) for line in few] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]


def test_a_missing_model_is_named(tmp_path, folders):
    done = commbert("compare", folders["a"], tmp_path / "none", "--on", RESOURCES / "terms_3gpp.csv")
    assert_refused(done, tmp_path / "out", "expected a model folder, found none")


def test_a_text_of_no_words_is_refused(models, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("\u200b\n", encoding="utf-8")
    with pytest.raises(DataError, match="found none that either tokenizer reads"):
        compare(models["a"], models["b"], [ComparedFile("text", path)], n_resamples=100)
