"""The stage ``acronyms`` on a tree of commented C and Python files, read by the stages before it."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest

import data_case
from commbert import tables
from commbert.artifacts import write_json
from commbert.errors import DataError
from commbert.settings.corpus import CorpusSettings, SplitSettings
from commbert.stages import acronyms as stage

N_DIRECTORIES = 6
C_FILE = """\
/* Sends a buffer status report (BSR) as soon as it may. */
int part{d}; // HARQ (hybrid automatic repeat request) of part {d}
int a{d} /* the radio bearer (RB) */ = {d}; /* user equipment (UE) */
/**
 * @brief of the radio
 * resource control (RRC) in part {d}, and LCG (logical
 * channel group) of it
 */
const char *text{d} = "in code (IC)"; int code_word{d}; // nothing
int not_joined{d}; // packet data
int other{d}; // convergence protocol (PDCP)
// service data
int between{d};
// adaptation protocol (SDAP)
// physical layer (PHY)
// physical layer (PHY)
"""
PYTHON_FILE = '''\
def f{d}():
    """Return medium access control (MAC) of {d}."""
    x{d} = "string form (SF)"  # MCS = modulation and coding scheme
    return x{d}  # user equipments (UEs) {d}
'''
EVERYWHERE = {
    ("bsr", "buffer status report"): 1,
    ("harq", "hybrid automatic repeat request"): 1,
    ("rb", "radio bearer"): 1,
    ("rrc", "radio resource control"): 1,
    ("lcg", "logical channel group"): 1,
    ("phy", "physical layer"): 2,
    ("mac", "medium access control"): 1,
    ("mcs", "modulation and coding scheme"): 1,
    # "user equipment" and "user equipments" are as frequent: the shorter one stands for both.
    ("ue", "user equipment"): 2,
}
"""What each directory defines, and on how many lines."""
OWN = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")
"""What one directory alone defines."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = tmp_path_factory.mktemp("acronyms") / "tree"
    for d in range(N_DIRECTORIES):
        folder = tree / f"part{d}"
        folder.mkdir(parents=True)
        (folder / "a.c").write_text(C_FILE.format(d=d))
        (folder / "b.py").write_text(PYTHON_FILE.format(d=d))
    (tree / "part0" / "twin.c").write_text(C_FILE.format(d=0))
    for d, name in enumerate(OWN):
        (tree / f"part{d}" / "own.c").write_text(f"int own{d}; // only in {name} (OI{name[0].upper()})\n")
    return tree


def _read(at, tree, shards):
    source = data_case.path_source(tree, include=("*.py", "*.c"), shards=shards)
    split = SplitSettings(validation=0.17, test=0.17, max_shared_lines=1.0)
    return data_case.read_corpus(at, CorpusSettings(sources=(source,), split=split))


def _inputs(chain):
    lines = {name: chain.data.lines(name) for name in chain.data.shards}
    return {"files": chain.data.files, "shards": chain.at / "corpus" / "shards.json", "lines": lines}


def _run(chain, out, **changes):
    given = {**_inputs(chain), "acronyms_out": out / "acronyms.parquet", "summary_out": out / "acronyms.json"}
    return stage.run(**{**given, **changes})


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tree):
    return _read(tmp_path_factory.mktemp("chain"), tree, 3)


@pytest.fixture(scope="module")
def out(tmp_path_factory, chain):
    out = tmp_path_factory.mktemp("out")
    _run(chain, out)
    return out


def _rows(out):
    return tables.read(out / "acronyms.parquet", tables.ACRONYMS).to_pylist()


def _directories(chain, split=None):
    rows = [r for r in chain.rows("corpus/files") if r["kept"] and split in (None, r["split"])]
    return {row["path"].split("/")[0] for row in rows if row["path"].endswith(("a.c", "twin.c"))}


def test_every_definition_of_a_comment_is_found_and_none_of_code(out):
    found = {(r["acronym"], r["expansion"]): r["n_lines"] for r in _rows(out)}
    for name in OWN:
        assert found.pop((f"oi{name[0]}", f"only in {name}")) == 1
    assert found == {pair: n * N_DIRECTORIES for pair, n in EVERYWHERE.items()}


def test_training_lines_are_those_of_the_training_split(chain, out):
    n_train = len(_directories(chain, "train"))
    assert 0 < n_train < N_DIRECTORIES
    own = {f"oi{name[0]}": f"part{d}" for d, name in enumerate(OWN)}
    for row in _rows(out):
        if row["acronym"] in own:
            assert row["n_train_lines"] == (own[row["acronym"]] in _directories(chain, "train"))
        else:
            assert row["n_train_lines"] * N_DIRECTORIES == row["n_lines"] * n_train


def test_dropped_files_define_nothing(chain, out):
    assert [r["path"] for r in chain.rows("corpus/files") if r["reason"].startswith("duplicate")]
    assert next(r for r in _rows(out) if r["acronym"] == "bsr")["n_lines"] == N_DIRECTORIES


def test_rows_are_sorted(out):
    pairs = [(r["acronym"], r["expansion"]) for r in _rows(out)]
    assert pairs == sorted(pairs)


def test_the_summary_counts_the_rows(out):
    told = json.loads((out / "acronyms.json").read_text())
    rows = _rows(out)
    assert told["pairs"] == len(rows) == told["acronyms"]
    assert told["pairs_in_training"] == sum(r["n_train_lines"] > 0 for r in rows) < len(rows)
    assert told["acronyms_of_several_meanings"] == 0
    assert told["definitions"] == sum(r["n_lines"] for r in rows)
    assert told["most_frequent"][0] == ["phy", "physical layer", 12]
    assert told["most_frequent"][1] == ["ue", "user equipment", 12]


@pytest.mark.parametrize("shards", [1, 4])
def test_the_number_and_order_of_shards_change_no_byte(tmp_path, tree, out, shards):
    chain = _read(tmp_path / "chain", tree, shards)
    lines = dict(reversed(_inputs(chain)["lines"].items()))
    _run(chain, tmp_path, lines=lines)
    for name in ("acronyms.parquet", "acronyms.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_row_groups_end_between_no_two_lines_of_a_definition(tmp_path, chain, out, monkeypatch):
    for row_group in (1, 2, 7):
        monkeypatch.setattr(tables, "_ROW_GROUP", row_group)
        lines = {}
        for name, path in _inputs(chain)["lines"].items():
            lines[name] = tmp_path / f"{row_group}" / name / "lines.parquet"
            lines[name].parent.mkdir(parents=True)
            tables.write(lines[name], tables.LINES, tables.read(path, tables.LINES), provenance={})
        _run(chain, tmp_path / str(row_group), lines=lines)
        assert _rows(tmp_path / str(row_group)) == _rows(out)


def test_lines_of_other_shards_are_refused(tmp_path, chain):
    lines = _inputs(chain)["lines"]
    for wrong in ({**lines, "other": chain.data.files}, {}):
        with pytest.raises(DataError, match="expected the lines of its 3 shards"):
            _run(chain, tmp_path, lines=wrong)


def test_lines_of_more_files_than_the_corpus_has_are_refused(tmp_path, chain):
    told = json.loads((chain.at / "corpus" / "shards.json").read_text())
    write_json(tmp_path / "shards.json", [{**s, "files": s["files"] - 1} for s in told])
    with pytest.raises(DataError, match="Rerun the stages from ingest on"):
        _run(chain, tmp_path, shards=tmp_path / "shards.json")


def test_a_corpus_without_comments_gives_an_empty_table(tmp_path):
    for d in range(N_DIRECTORIES):
        (tmp_path / "tree" / f"d{d}").mkdir(parents=True)
        (tmp_path / "tree" / f"d{d}" / "a.c").write_text(f"int x{d} = {d};\nint y{d};\n")
    told = _run(_read(tmp_path / "chain", tmp_path / "tree", 1), tmp_path)
    assert _rows(tmp_path) == []
    assert told["pairs"] == told["definitions"] == 0


def test_the_command_is_the_stage_and_starts_without_torch(tmp_path, chain, out):
    given = _inputs(chain)
    command = [sys.executable, "-X", "importtime", "-m", "commbert", "acronyms"]
    command += ["--files", str(given["files"]), "--shards", str(given["shards"])]
    command += [f"--lines={path}" for path in given["lines"].values()]
    command += ["--acronyms-out", str(tmp_path / "acronyms.parquet"), "--summary-out", str(tmp_path / "acronyms.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "polars" in imported
    assert not {"torch", "transformers"} & imported
    for name in ("acronyms.parquet", "acronyms.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def _lines(*rows):
    columns = {"file_no": [], "line_no": [], "text": [], "code": []}
    for row in rows:
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    return pl.DataFrame({**columns, "split": [0] * len(rows)})


def test_comments_by_hand():
    found = stage._comments(
        _lines(
            (0, 1, "/* One (A1) */", ""),
            (0, 2, "* two", ""),
            (0, 4, "// four", ""),
            (0, 5, "x = 1; // five", "x = 1;"),
            (0, 6, "# six \u00e9", ""),
            (0, 7, "y = 1", "y = 1"),
            (1, 8, "-- eight", ""),
            (1, 9, "a /* (AB) nine */ b", "a   b"),
            (1, 10, "/* (AB) */ aa", "aa"),
            (1, 11, "a /* ten */ b", "a   b"),
            (1, 12, "// twelve", ""),
            (2, 13, "// of another file", ""),
        )
    )
    assert found.select("own", "before").rows() == [
        ("One (A1)", ""),
        ("two", "One (A1) "),
        ("four", ""),
        ("five", ""),
        ("six \u00e9", ""),
        ("eight", ""),
        ("(AB) nine", ""),
        ("(AB)", ""),
        ("twelve", ""),
        ("of another file", ""),
    ]


def test_what_a_line_goes_on_from_is_cut():
    found = stage._comments(_lines((0, 1, "// " + "x" * 9000 + " radio", ""), (0, 2, "// bearer (RB)", "")))
    assert found["before"][1] == "x" * 250 + " radio "


def test_a_long_line_with_a_comment_between_code_is_passed_over():
    code = "x" * 5000
    lines = _lines((0, 1, f"{code} /* radio bearer (RB) */ y", f"{code}   y"), (0, 2, "a /* b (CD) */ c", "a   c"))
    assert stage._comments(lines)["own"].to_list() == ["b (CD)"]
