"""The stage ``texts`` on small tables of functions and acronyms: which pairs are there, with which token ids."""

import json
import os

import numpy as np
import pytest
import torch

import tiny
from cli_case import assert_refused, commbert
from commbert import tables
from commbert.errors import DataError, ModelError
from commbert.evaluation.functions import brief_ranks, read_function_texts
from commbert.settings.texts import TextsSettings
from commbert.stages import texts as stage

SPLITS = ("train", "validation", "test", "train", "")
"""Of files 0, 1, ...; the last one is dropped."""
FUNCTIONS = [
    (0, "send", "Sends a grant.", "int send(int slot)\nreturn mac(slot);"),
    (0, "get", "Returns the beam.", "int get()\nreturn get_it(get());"),
    (0, "dark", "", "void dark()"),
    (1, "held", "Held out.", "void held()\nwait();"),
    (3, "late", "Of another file.", "def late():\nreturn 1"),
    (3, "late", "Has no code.", ""),
]
ACRONYMS = [("bsr", "buffer status report", 3, 2), ("rb", "radio bearer", 1, 0), ("rb", "resource block", 4, 4)]
BRIEFS_OF_ALL = {
    ("Sends a grant.", "int f(int slot)\nreturn mac(slot);"),
    ("Returns the beam.", "int f()\nreturn get_it(f());"),
    ("Of another file.", "def f():\nreturn 1"),
}
ACRONYMS_OF_ALL = {("bsr", "buffer status report"), ("rb", "resource block")}


def write_files(path, splits):
    """Write the table corpus/files, of which the split alone is read."""
    n = len(splits)
    columns = {field.name: [""] * n if field.type == "string" else [0] * n for field in tables.FILES.schema}
    columns |= {"file_id": range(n), "split": list(splits), "kept": [bool(s) for s in splits]}
    tables.write(path, tables.FILES, columns, provenance={})


def write_functions(path, rows):
    """Write the table corpus/functions of (file_id, name, brief, code)."""
    columns = {"function_id": range(len(rows)), "first_line": [1] * len(rows), "last_line": [2] * len(rows)}
    columns |= {name: [row[i] for row in rows] for i, name in enumerate(("file_id", "name", "brief", "code"))}
    tables.write(path, tables.FUNCTIONS, tables.empty(tables.FUNCTIONS.schema) if not rows else columns, provenance={})


def write_acronyms(path, rows):
    columns = {name: [row[i] for row in rows] for i, name in enumerate(tables.ACRONYMS.schema.names)}
    tables.write(path, tables.ACRONYMS, tables.empty(tables.ACRONYMS.schema) if not rows else columns, provenance={})


class Made:
    """What a run of the stage left."""

    def __init__(self, out):
        self.out = out
        self.told = json.loads((out / "summary.json").read_text())
        self.texts = tables.read(out / "texts.parquet", tables.TEXTS).to_pylist()
        self.rows = tables.read(out / "pairs.parquet", tables.TEXT_PAIRS).to_pylist()

    def pairs(self, kind):
        text = [row["text"] for row in self.texts]
        return [(text[r["text_id_a"]], text[r["text_id_b"]]) for r in self.rows if r["kind"] == kind]

    def bytes(self):
        return [(self.out / name).read_bytes() for name in ("texts.parquet", "pairs.parquet", "summary.json")]


@pytest.fixture
def at(tmp_path, base_folder):
    """Return a folder with the inputs of the stage."""
    write_files(tmp_path / "files.parquet", SPLITS)
    write_functions(tmp_path / "functions.parquet", FUNCTIONS)
    write_acronyms(tmp_path / "acronyms.parquet", ACRONYMS)
    (tmp_path / "tokenizer").symlink_to(base_folder)
    return tmp_path


def inputs(at):
    named = {name: at / f"{name}.parquet" for name in ("files", "functions", "acronyms")}
    return {**named, "tokenizer": at / "tokenizer"}


def outputs(out):
    return {
        "texts_out": out / "texts.parquet",
        "pairs_out": out / "pairs.parquet",
        "summary_out": out / "summary.json",
    }


def run(at, functions=None, *, mined=None, out="out", **settings):
    """Run the stage, on other functions or acronyms where they are given."""
    if functions is not None:
        write_functions(at / "functions.parquet", functions)
    if mined is not None:
        write_acronyms(at / "acronyms.parquet", mined)
    told = stage.run(TextsSettings(**{"hide_names": True, **settings}), **inputs(at), **outputs(at / out))
    made = Made(at / out)
    assert made.told == told
    return made


# -- Which pairs -------------------------------------------------------------------------------------------------------


def test_pairs_are_briefs_with_code_of_training_files_and_acronyms_of_training_lines(at):
    made = run(at)
    assert set(made.pairs("brief")) == BRIEFS_OF_ALL
    assert set(made.pairs("acronym")) == ACRONYMS_OF_ALL
    assert len(made.rows) == 5
    assert len(made.texts) == 10
    assert (made.told["briefs"], made.told["acronyms"], made.told["left_out_as_heldout"]) == (3, 2, 0)
    assert made.told["texts"] == 10


def test_rows_are_sorted_and_text_ids_are_row_numbers(at):
    rng = np.random.default_rng(0)
    words = rng.choice(tiny.WORDS, (60, 6)).tolist()
    functions = [(0, "x", " ".join(w[:3]), f"{w[3]}({w[4]}); // {i}") for i, w in enumerate(words)]
    made = run(at, functions)
    texts = [row["text"] for row in made.texts]
    assert texts == sorted(set(texts))
    assert [row["text_id"] for row in made.texts] == list(range(len(texts)))
    rows = [(r["kind"], r["text_id_a"], r["text_id_b"]) for r in made.rows]
    assert rows == sorted(set(rows))
    assert made.told["briefs"] == 60
    assert set(texts) == {t for kind in ("brief", "acronym") for pair in made.pairs(kind) for t in pair}


def test_each_switch_leaves_out_its_kind(at):
    assert {r["kind"] for r in run(at, briefs=False).rows} == {"acronym"}
    assert {r["kind"] for r in run(at, acronyms=False).rows} == {"brief"}
    neither = run(at, briefs=False, acronyms=False)
    assert neither.rows == neither.texts == []


def test_names_are_hidden_in_code_or_not(at):
    shown = {
        ("Sends a grant.", "int send(int slot)\nreturn mac(slot);"),
        ("Returns the beam.", "int get()\nreturn get_it(get());"),
        ("Of another file.", "def late():\nreturn 1"),
    }
    assert set(run(at, hide_names=False).pairs("brief")) == shown
    assert set(run(at, hide_names=True).pairs("brief")) == BRIEFS_OF_ALL


CODE = "int one(int a)\n  return slot(a);"


@pytest.mark.parametrize("file_id", [1, 2])
@pytest.mark.parametrize(
    "heldout",
    [
        ("other", "Sends THE\t grant. ", "x()"),
        ("one", "Other.", "INT one(int  a)\n\n\treturn slot(a);"),
        ("one", "", CODE),
        ("one", "Sends the grant.", ""),
        ("two", "Other.", CODE.replace("one", "two")),
        ("operator()", "Other.", CODE),
        ("ß", "sends the GRANT.", "ß()"),
    ],
)
@pytest.mark.parametrize("hide_names", [True, False])
def test_what_a_held_out_file_has_too_is_left_out_and_counted(at, file_id, heldout, hide_names):
    mine = [(0, "one", "Sends the grant.", CODE), (0, "own", "Own.", "own(1)")]
    made = run(at, [*mine, (file_id, *heldout)], hide_names=hide_names)
    assert [a for a, _ in made.pairs("brief")] == ["Own."]
    assert made.told["left_out_as_heldout"] == 1


@pytest.mark.parametrize(
    "heldout",
    [
        ("one", "Sends the grants.", "int one(int b)"),
        ("one", "", ""),
        ("", " \n", "\t"),
        ("operator()", "Other.", CODE.replace("one", "two")),
    ],
)
def test_what_a_held_out_file_has_in_other_words_stays(at, heldout):
    blank = (0, "blank", " ", "\t\n")
    made = run(at, [(0, "one", "Sends the grant.", CODE), blank, (1, *heldout)])
    assert made.pairs("brief") == [("Sends the grant.", CODE.replace("one", "f"))]
    assert made.told["left_out_as_heldout"] == 0


def test_case_is_folded_as_unicode_says(at):
    made = run(at, [(0, "a", "Große Maße", "a(1)"), (1, "b", "GROSSE MASSE", "b(2)")])
    assert made.told["left_out_as_heldout"] == 1


def test_a_dropped_file_neither_gives_a_pair_nor_takes_one(at):
    made = run(at, [(0, "one", "Sends the grant.", CODE), (4, "one", "Sends the grant.", CODE), (4, "b", "B.", "b(1)")])
    assert [a for a, _ in made.pairs("brief")] == ["Sends the grant."]
    assert made.told["left_out_as_heldout"] == 0


def test_no_text_that_briefs_are_measured_with_is_trained(at):
    rng = np.random.default_rng(1)
    functions = []
    for i in range(300):
        name = f"fn{i % 7}"
        functions.append((int(rng.integers(0, 4)), name, f"Brief {rng.integers(300)}", f"{name}({rng.integers(300)})"))
    made = run(at, functions)
    measured = set()

    def embed(some):
        measured.update(some)
        return torch.ones(len(some), 1)

    for hide_names in (True, False):
        rows = read_function_texts(at / "functions.parquet", np.array([s in ("validation", "test") for s in SPLITS]))
        brief_ranks(embed, rows, seed=1, hide_names=hide_names)
    assert len(measured) > 200
    assert 20 < made.told["briefs"] < 140
    assert not measured & {row["text"] for row in made.texts}


def test_pairs_are_those_that_a_plain_loop_finds(at, monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(stage, "_TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(tables, "_ROW_GROUP", 50)
    functions = [
        (int(rng.integers(0, 5)), "g", rng.choice(["", "A b", "a  B", "c", "d", "e f"]), f"g({rng.integers(0, 90)})")
        for _ in range(400)
    ]
    made = run(at, functions)

    def plain(text):
        return " ".join(text.lower().split())

    heldout = {plain(text) for f, _, b, c in functions if f in (1, 2) for text in (b, c)} - {""}
    expected, n_heldout = set(), 0
    for file_id, _, brief, code in functions:
        if file_id in (0, 3) and brief:
            if plain(brief) in heldout or plain(code) in heldout:
                n_heldout += 1
            else:
                expected.add((brief, code.replace("g(", "f(")))
    assert set(made.pairs("brief")) == expected
    assert made.told["left_out_as_heldout"] == n_heldout


def test_equal_texts_are_one_row_and_equal_pairs_one_pair(at):
    twice = [(0, "a", "Brief.", "a(1)"), (0, "b", "Brief.", "b(1)"), (3, "a", "Brief.", "a(1)"), (0, "c", "c.", "c(1)")]
    made = run(at, [*twice, (0, "d", "buffer status report", "d(2)")])
    assert made.pairs("brief") == [("Brief.", "f(1)"), ("buffer status report", "f(2)"), ("c.", "f(1)")]
    assert [row["text"] for row in made.texts].count("f(1)") == 1
    assert ("bsr", "buffer status report") in made.pairs("acronym")
    assert len(run(at, hide_names=False).pairs("brief")) == 4


# -- The draw ----------------------------------------------------------------------------------------------------------


def many(n):
    return [(0, f"n{i}", f"Brief {i}", f"n{i}({i})") for i in range(n)]


def drawn(at, functions, **settings):
    made = run(at, functions, max_pairs=20, **settings)
    assert made.told["briefs"] == 20
    assert set(made.pairs("acronym")) == ACRONYMS_OF_ALL
    return set(made.pairs("brief"))


def test_the_draw_is_a_subset_that_follows_the_seed_and_nothing_else(at):
    all_pairs = set(run(at, many(100), max_pairs=None).pairs("brief"))
    assert len(all_pairs) == 100
    one, again, other = (drawn(at, many(100), seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert one | other < all_pairs
    rows = many(100)
    np.random.default_rng(0).shuffle(rows)
    assert drawn(at, [(int(f), *texts) for f, *texts in rows], seed=1) == one


def test_as_many_pairs_as_are_asked_for_are_all_drawn(at):
    assert run(at, many(20), max_pairs=20).pairs("brief") == run(at, many(20), max_pairs=None).pairs("brief")
    assert run(at, many(20), max_pairs=1).told["briefs"] == 1


def test_the_draw_is_of_pairs_that_differ_when_names_are_hidden(at):
    copies = [(0, f"n{i}", "Brief.", f"n{i}(1)") for i in range(200)]
    assert len(drawn(at, [*copies, *many(20)], seed=1) & {("Brief.", "f(1)")}) <= 1


# -- Token ids ---------------------------------------------------------------------------------------------------------


def token_ids(*tokens):
    vocabulary = tiny.vocabulary()
    return [vocabulary.index(token) for token in tokens]


def test_token_ids_are_those_of_the_text_alone(at):
    made = run(at, [(0, "a", "Return the house", "a number")], mined=[])
    assert [row["text"] for row in made.texts] == ["Return the house", "f number"]
    expected = [token_ids("return", "the", "house"), token_ids("f", "number")]
    assert [row["token_ids"] for row in made.texts] == expected
    assert made.told["tokens"] == 5


def test_longer_texts_are_cut_and_only_they_count_as_cut(at):
    functions = [(0, "", "the " * 9, "of " * 8), (0, "", "and " * 7, "house " * 600)]
    made = run(at, functions, max_tokens=8, acronyms=False)
    expected = {"the": 8, "of": 8, "and": 7, "house": 8}
    assert {row["text"].split()[0]: len(row["token_ids"]) for row in made.texts} == expected
    assert all(row["token_ids"] == token_ids(row["text"].split()[0]) * len(row["token_ids"]) for row in made.texts)
    assert made.told["tokens"] == 31
    assert made.told["cut_texts_pct"] == 50.0


@pytest.mark.parametrize("nothing", [" ", "\t \n", "\x00", "\x01\x7f", "\u200b", "\ufffd"])
def test_a_text_of_no_token_has_no_row_and_no_pair(at, nothing):
    made = run(at, [(0, "x", nothing, "the"), (0, "x", "of", nothing), (0, "x", "and", "house")], mined=[])
    assert made.pairs("brief") == [("and", "house")]
    assert all(row["token_ids"] for row in made.texts)
    assert made.told["briefs"] == 1
    assert [row["text_id"] for row in made.texts] == list(range(len(made.texts)))


def test_texts_are_in_a_row_wherever_those_without_tokens_stand(at, monkeypatch):
    functions = [(0, "", chr(0) * i, f"the {i}") for i in range(1, 30)]
    functions += [(0, "", f"of {i}", f"\x01{i:02}" if i % 3 else "\x02" * i) for i in range(1, 30)]
    whole = run(at, functions)
    for at_once in (1, 3, 10):
        monkeypatch.setattr(stage, "_TEXTS_AT_ONCE", at_once)
        assert run(at, functions, out=f"out{at_once}").bytes() == whole.bytes()
    assert [row["text_id"] for row in whole.texts] == list(range(len(whole.texts)))
    assert len(whole.pairs("brief")) == 20


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("[MASK] the", ["[", "m", "##a", "##s", "##k", "]", "the"]),
        ("[CLS][SEP]", ["[", "c", "##l", "##s", "]", "[", "s", "##e", "##p", "]"]),
        ("the\x00 house", ["the", "house"]),
        ("retu\x00rn", ["return"]),
        ("ho\u0301use", ["house"]),
        ("\u202ethe", ["the"]),
        ("\U0001f4e1", ["[UNK]"]),
        ("x" * 100_000, ["[UNK]"]),
    ],
)
def test_hostile_text_is_text(at, text, tokens):
    made = run(at, [(0, "\\", text, "of"), (0, "(", "and", text)], mined=[])
    row = next(row for row in made.texts if row["text"] == text)
    assert row["token_ids"] == token_ids(*tokens)
    assert not {2, 3, 4} & set(row["token_ids"])
    assert set(made.pairs("brief")) == {(text, "of"), ("and", text)}


def test_very_many_words_are_cut(at):
    made = run(at, [(0, "of", "the " * 300_000, "of()")], max_tokens=510)
    assert max(len(row["token_ids"]) for row in made.texts) == 510


@pytest.mark.parametrize("name", [".*", "(", "a<" * 500, "\\", "f" * 5000, "operator<<", "\x00", "~"])
def test_a_hostile_name_is_no_pattern(at, name):
    made = run(at, [(0, name, "Brief.", "int g(int h)")])
    assert made.pairs("brief") == [("Brief.", "int g(int h)")]


# -- Files -------------------------------------------------------------------------------------------------------------


def test_the_same_twice_gives_the_same_bytes(at):
    first = run(at)
    assert run(at, list(reversed(FUNCTIONS)), out="other").bytes()[0] != first.bytes()[0]  # its provenance
    assert run(at, FUNCTIONS, out="again").bytes() == first.bytes()


def test_the_order_of_functions_changes_no_row(at):
    first, other = run(at), run(at, list(reversed(FUNCTIONS)), mined=ACRONYMS[::-1], out="other")
    assert (first.texts, first.rows) == (other.texts, other.rows)


def test_empty_inputs_give_empty_tables(at):
    write_files(at / "files.parquet", ())
    made = run(at, [], mined=[])
    assert made.texts == made.rows == []
    numbers = {k: v for k, v in made.told.items() if k not in ("settings", "inputs")}
    assert numbers == {
        "briefs": 0, "acronyms": 0, "left_out_as_heldout": 0, "texts": 0, "tokens": 0, "cut_texts_pct": 0.0
    }  # fmt: skip


def test_provenance_names_settings_and_every_input(at):
    def told(**settings):
        made = run(at, **settings)
        for name in ("texts", "pairs"):
            inside = tables.provenance_of(made.out / f"{name}.parquet")
            assert {k: inside[k] for k in ("settings", "inputs")} == {k: made.told[k] for k in ("settings", "inputs")}
        return made.told["settings"], made.told["inputs"]

    first = told()
    assert told(seed=18)[0] != first[0]
    seen = {first[1]}
    for change in (
        lambda: write_functions(at / "functions.parquet", FUNCTIONS[:-1]),
        lambda: write_acronyms(at / "acronyms.parquet", ACRONYMS[:-1]),
        lambda: write_files(at / "files.parquet", (*SPLITS, "train")),
    ):
        change()
        seen.add(told()[1])
    assert len(seen) == 4


def test_functions_of_another_corpus_are_refused(at):
    with pytest.raises(DataError, match="expected functions of the 5 files of the corpus, found one of file 5"):
        run(at, [(5, "a", "A.", "a(1)")])
    assert not (at / "out" / "texts.parquet").exists()


@pytest.mark.parametrize("name", ["files", "functions", "acronyms"])
def test_a_table_of_another_kind_is_refused(at, name):
    tables.write(at / f"{name}.parquet", tables.PAIR_KEYS, {"key": [1]}, provenance={})
    with pytest.raises(DataError, match=f"{name}.parquet: expected"):
        run(at)


def test_a_folder_without_tokenizer_is_refused(at):
    (at / "tokenizer").unlink()
    (at / "tokenizer").mkdir()
    with pytest.raises(ModelError, match="expected a BERT tokenizer"):
        run(at)


# -- The command -------------------------------------------------------------------------------------------------------


def command(at, out, **changes):
    paths = {**inputs(at), **outputs(out), **changes}
    return ["texts", "--settings", '{"hide_names": true}', *(f"--{k.replace('_', '-')}={v}" for k, v in paths.items())]


def test_the_command_is_the_stage(at):
    first = run(at)
    done = commbert(*command(at, at / "by_command"))
    assert done.returncode == 0, done.stderr
    assert Made(at / "by_command").bytes() == first.bytes()


@pytest.mark.parametrize("name", ["files", "functions", "acronyms", "tokenizer"])
def test_the_command_refuses_an_input_that_is_missing(at, name):
    missing = at / "missing"
    assert_refused(commbert(*command(at, at / "by_command", **{name: missing})), at / "by_command", str(missing))


def test_the_command_starts_without_torch(at):
    done = commbert(*command(at, at / "alone"), env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "tokenizers" in imported
    assert not {"torch", "transformers"} & imported
