"""The stage functions: whose functions, what of them, however the corpus is dealt."""

import re
from collections import Counter

import pytest

import data_case
import tiny
import tiny_stages
from commbert import tables
from commbert.errors import DataError
from commbert.settings.corpus import SplitSettings
from commbert.stages import functions
from commbert.text.languages import language_of

KEY = "AKIAQ3EGRTH5JWZ7XV2B"
PYTHON = '''\
"""Module."""
import os


@cached
def scale_{k}(x):
    """Scale by {k}.

    Args:
        x: What.
    """
    # inside
    key = "{key}"  # behind
    """A statement of its own, which the lines take for a comment."""

    def inner():
        return x * {k}
    return inner()


class Of{k}:
    def method(self):
\t    return {k}
'''
CODE = """\
/** @brief Adds {k}.
 *  @param a one */
static int add_{k}(int a) /* here */
{{
  // nothing
  return a + {k};
}}
int plain_{k}(void) {{ return {k}; }}
"""


def write_tree(folder):
    tiny.source_tree(folder)
    for k, part in enumerate(sorted(folder.iterdir())):
        (part / "code.py").write_text(PYTHON.format(k=k, key=KEY))
        (part / "code.c").write_text(CODE.format(k=k))
        (part / "chip.v").write_text(f"module m{k};\n  wire harq_{k};\nendmodule\n" * 3)
        (part / "hard.c").write_text(f"int f{k}() {{}}\n" + "".join(f"{'&:' * 400}{i}{k}\n" for i in range(9)))
        (part / "large.c").write_text("".join(" " * 2**16 + f"int g{k}_{i}() {{}}\n" for i in range(17)))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tree = write_tree(tmp_path_factory.mktemp("tree"))
    base = tmp_path_factory.mktemp("base")
    tiny.write_tokenizer(base)
    done = {}

    def of(shards):
        if shards not in done:
            split = SplitSettings(validation=0.3, test=0.3, max_shared_lines=1.0)
            source = data_case.path_source(tree, shards=shards, include=("*.py", "*.c", "*.v"), shard_by="file")
            settings = data_case.settings_of(source, split=split, cleaning={"near_duplicates": None})
            chain = data_case.read_corpus(tmp_path_factory.mktemp("run"), settings.corpus)
            data = chain.data
            functions.run(
                files=data.files,
                shards=data.at / "corpus" / "shards.json",
                lines={name: data.lines(name) for name in data.shards},
                **data.functions,
            )
            done[shards] = chain
        return done[shards]

    return of


def rows_of(chain):
    paths = {row["file_id"]: row["path"] for row in chain.rows("corpus/files")}
    return [{**row, "path": paths[row["file_id"]]} for row in chain.rows("corpus/functions")]


def test_functions_are_those_of_all_kept_files_in_order(run):
    chain, rows = run(1), rows_of(run(1))
    kept = {i for i, split in chain.split_of().items() if split in tables.SPLITS}
    paths = {r["path"] for r in chain.rows("corpus/files") if r["file_id"] in kept}
    assert {r["path"] for r in rows} == {p for p in paths if p.endswith(("code.py", "code.c"))}
    assert {chain.split_of()[r["file_id"]] for r in rows} == set(tables.SPLITS)
    assert [r["function_id"] for r in rows] == list(range(len(rows)))
    places = [(r["file_id"], r["first_line"], -r["last_line"]) for r in rows]
    assert places == sorted(places)


def test_a_row_of_python_holds_place_name_brief_and_code(run):
    rows = [r for r in rows_of(run(1)) if r["path"].endswith("code.py")]
    k = re.search(r"\d", rows[0]["name"])[0]
    found = [(r["name"], r["first_line"], r["last_line"], r["brief"]) for r in rows if r["path"] == rows[0]["path"]]
    assert found == [(f"scale_{k}", 5, 18, f"Scale by {k}."), ("inner", 16, 17, ""), ("method", 22, 23, "")]
    code = f'@cached\ndef scale_{k}(x):\nkey = "********"\ndef inner():\nreturn x * {k}\nreturn inner()'
    assert rows[0]["code"] == code


def test_a_row_of_c_holds_place_name_brief_and_code(run):
    first, second = [r for r in rows_of(run(1)) if r["path"].endswith("code.c")][:2]
    k = re.search(r"\d", first["name"])[0]
    assert (first["name"], first["first_line"], first["last_line"], first["brief"]) == (f"add_{k}", 3, 7, f"Adds {k}.")
    assert first["code"] == f"static int add_{k}(int a)\n{{\nreturn a + {k};\n}}"
    assert (second["first_line"], second["last_line"], second["brief"]) == (8, 8, "")


def test_no_secret_and_no_brief_stands_in_the_code(run):
    rows = rows_of(run(1))
    assert not any(KEY in r["code"] + r["brief"] + r["name"] for r in rows)
    assert not any(r["brief"] and r["brief"] in r["code"] for r in rows)


def test_the_summary_counts_files_and_functions_by_split_and_language(run):
    chain, rows = run(1), rows_of(run(1))
    summary = chain.summary("corpus/functions")["splits"]
    split_of = chain.split_of()
    assert set(summary) == set(tables.SPLITS)
    for split, told in summary.items():
        files = [r for r in chain.rows("corpus/files") if r["split"] == split]
        of_split = [r for r in rows if split_of[r["file_id"]] == split]
        hard = sum(r["path"].endswith(("hard.c", "large.c")) for r in files)
        assert told["files_without_grammar"] == sum(r["language"] == "verilog" for r in files) > 0
        assert told["files_not_parsed"] == hard > 0
        assert told["files"] == len(files) - told["files_without_grammar"] - hard
        assert told["functions"] == len(of_split) > 0
        assert told["without_brief"] == sum(not r["brief"] for r in of_split) > 0
        by_language = Counter(language_of(r["path"]) for r in of_split)
        assert {k: v["functions"] for k, v in told["languages"].items()} == by_language
        for name in ("files", "without_brief"):
            assert sum(v[name] for v in told["languages"].values()) == told[name]


@pytest.mark.parametrize("shards", [2, 5])
def test_the_number_of_shards_changes_no_byte(run, shards):
    for path in run(1).data.functions.values():
        other = run(shards).at / path.relative_to(run(1).at)
        assert other.read_bytes() == path.read_bytes()


def test_code_is_cut_off_at_its_limit(run, tmp_path, monkeypatch):
    monkeypatch.setattr(functions, "MAX_CODE_CHARS", 30)
    chain = run(2)
    lines = {name: chain.data.lines(name) for name in chain.data.shards}
    paths = {"out": tmp_path / "f.parquet", "summary_out": tmp_path / "f.json"}
    functions.run(files=chain.data.files, shards=chain.at / "corpus/shards.json", lines=lines, **paths)
    cut = tables.read(paths["out"], tables.FUNCTIONS)["code"].to_pylist()
    whole = [r["code"] for r in chain.rows("corpus/functions")]
    assert cut == [code[:30] for code in whole]
    assert any(len(code) > 60 for code in whole)


def test_lines_of_other_shards_are_refused(run, tmp_path):
    chain = run(2)
    lines = {name: chain.data.lines(name) for name in chain.data.shards[:1]}
    with pytest.raises(DataError, match=r"shards\.json: expected the shards"):
        functions.run(files=chain.data.files, shards=chain.at / "corpus/shards.json", lines=lines, out=tmp_path / "f",
                      summary_out=tmp_path / "s")  # fmt: skip


def test_a_corpus_without_held_out_functions_gives_an_empty_table(tmp_path):
    (tmp_path / "tree").mkdir()
    tiny.source_tree(tmp_path / "tree")
    data = tiny_stages.Data(tmp_path, ("tree",))
    chain = data_case.read_corpus(tmp_path, data_case.settings_of(data_case.path_source(tmp_path / "tree")).corpus)
    shards = tmp_path / "corpus" / "shards.json"
    lines = {name: chain.data.lines(name) for name in chain.data.shards}
    told = functions.run(files=data.files, shards=shards, lines=lines, **data.functions)
    assert chain.rows("corpus/functions") == []
    assert sum(split["functions"] for split in told["splits"].values()) == 0
