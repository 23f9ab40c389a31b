"""Sources of every kind, from end to end: archives, git, tables, secrets, every script, copies across sources."""

import csv
import hashlib
import io
import itertools
import os
import random
import re
import string
import subprocess
import tarfile
import zipfile
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

import data_case
import tiny
import tiny_stages
from commbert import tables
from commbert.errors import SourceError
from commbert.settings.corpus import ArchiveSource, GitRules, GitSource, TableSource
from commbert.settings.words import WordsSettings
from commbert.stages import fetch

SPLITS = tables.SPLITS
SAME = ("corpus/words.parquet", "tokenizer/tokenizer/new_words.json", "windows/summary.json", "pairs/summary.json")


def files_below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_archive(tree, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in reversed(files_below(tree).items()):
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in reversed(files_below(tree).items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def from_path(tmp_path_factory, tree, base_folder):
    settings = data_case.settings_of(data_case.path_source(tree))
    return data_case.Chain(tiny_stages.run_data(tmp_path_factory.mktemp("path"), settings, base_folder))


def assert_same_corpus(found, expected):
    columns = [name for name in tables.FILES.schema.names if name != "n_bytes"]
    for a, b in zip(found.rows("corpus/files"), expected.rows("corpus/files"), strict=True):
        differing = [name for name in columns if a[name] != b[name]]
        assert differing == [], a["path"]
    assert found.lines() == expected.lines()
    for split in SPLITS:
        assert found.windows(split) == expected.windows(split)
        assert found.rows(f"pairs/{split}") == expected.rows(f"pairs/{split}")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ["tree.tar", "tree.tar.gz", "tree.zip"])
def test_an_archive_gives_the_corpus_of_its_tree(tmp_path, tree, base_folder, from_path, name, shards):
    archive = write_archive(tree, tmp_path / name)
    source = ArchiveSource(
        kind="archive", name="tree", path=str(archive), sha256=sha256(archive), include=("*.py",), shards=shards
    )
    data = tiny_stages.run_data(tmp_path / "out", data_case.settings_of(source), base_folder)
    assert_same_corpus(data_case.Chain(data), from_path)
    [told] = data_case.Chain(data).summary("corpus/ingest")["sources"]
    assert (told["kind"], told["sha256"]) == ("archive", sha256(archive))


def test_an_archive_of_another_digest_is_refused_before_anything_is_written(tmp_path, tree):
    archive = write_archive(tree, tmp_path / "tree.zip")
    source = ArchiveSource(kind="archive", name="tree", path=str(archive), sha256="0" * 64)
    with pytest.raises(SourceError, match=f"source tree: expected sha256 0{{64}}, found {sha256(archive)}"):
        data_case.read_corpus(tmp_path / "out", data_case.settings_of(source).corpus)
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def git(folder, *arguments):
    who = {f"GIT_{kind}_{what}": "t" for kind in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder,
        env={**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_a_commit_gives_the_corpus_of_its_tree(tmp_path, tree, base_folder, from_path, shards):
    work = tmp_path / "work"
    for name, data in files_below(tree).items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(data)
    git(work, "init", "--quiet")
    git(work, "add", "-A")
    git(work, "commit", "--quiet", "-m", "one")
    commit = git(work, "rev-parse", "HEAD")
    (work / "part0" / "module0.py").write_text("later = nothing\n")
    git(work, "commit", "--quiet", "-am", "two")
    source = GitSource(kind="git", name="tree", url=work.as_uri(), commit=commit, include=("*.py",), shards=shards)
    rules = GitRules(protocols=("file",))
    fetch.run(source, out=tmp_path / "fetched", timeout_s=30.0, git=rules)
    settings = data_case.settings_of(source, cleaning={"git": rules})
    data = tiny_stages.run_data(tmp_path / "out", settings, base_folder, {"tree": tmp_path / "fetched"})
    assert_same_corpus(data_case.Chain(data), from_path)
    assert data_case.Chain(data).summary("corpus/ingest")["sources"][0]["commit"] == commit


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file of 2,400 rows, some of whose texts have commas, quotes and line ends."""
    path = tmp_path_factory.mktemp("table") / "reports.csv"
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "body"])
        for i in range(2400):
            a, b, c = rng.sample(tiny.WORDS, 3)
            n = rng.randrange(6)
            writer.writerow([f"{a}_{i // 1000}_{n} fails, {b}", f'{c}_index "{a}" {i}\n{b}_process_{n} {c}_{n}'])
    return path


@pytest.mark.parametrize("shards", [1, 2])
def test_the_rows_of_a_table_become_files_of_their_own(tmp_path, base_folder, table, shards):
    source = TableSource(
        kind="table", name="t", path=str(table), template="{title}\n{body}", sha256=sha256(table), shards=shards
    )
    settings = data_case.settings_of(source, cleaning={"near_duplicates": None, "drop_duplicates": False})
    chain = data_case.Chain(tiny_stages.run_data(tmp_path, settings, base_folder))
    files = chain.rows("corpus/files")
    assert len(files) == 2400
    assert {row["path"].split("/")[0] for row in files} == {"reports.csv"}
    lines = defaultdict(list)
    for row in chain.lines():
        lines[row["file_id"]].append(row["text"])
    with table.open(newline="", encoding="utf-8") as file:
        expected = {i: [r["title"], *r["body"].split("\n")] for i, r in enumerate(csv.DictReader(file), start=1)}
    assert {int(row["path"].rpartition("/")[2]): lines[row["file_id"]] for row in files} == expected
    assert {row["split"] for row in files} == set(SPLITS)
    assert all(chain.windows(split) and chain.rows(f"pairs/{split}") for split in SPLITS)


def test_the_shards_of_a_table_change_no_byte_of_what_is_gathered(tmp_path, base_folder, table):
    def run(shards):
        source = TableSource(
            kind="table", name="t", path=str(table), template="{body}", sha256=sha256(table), shards=shards
        )
        settings = data_case.settings_of(source, cleaning={"near_duplicates": None})
        tiny_stages.run_data(tmp_path / str(shards), settings, base_folder)
        found = data_case.gathered(tmp_path / str(shards))
        found.pop("pairs/heldout_lines.parquet")  # see test_stages_same_bytes
        return found

    assert data_case.differing(run(1), run(4)) == []


# -- Secrets -----------------------------------------------------------------------------------------------------------


def made_secrets():
    """Return secrets of twelve kinds, made here so that none stands in this file, each with the line it stands in."""
    rng = random.Random(5)

    def some(alphabet, n):
        return "".join(rng.choice(alphabet) for _ in range(n - 3)) + "a" + "Z" + "7"

    mixed, upper = string.ascii_letters + string.digits, string.ascii_uppercase + string.digits
    key = [some(mixed, 64) for _ in range(3)]
    head = "-----BEGIN RSA " + "PRIVATE KEY-----"
    tail = "-----END RSA " + "PRIVATE KEY-----"
    web_token = "eyJ" + ".".join(some(mixed, 30) for _ in range(3))
    one_line = {
        "AWS key": ("AKIA" + some(upper, 16).upper(), "use({})"),
        "GitHub token": ("ghp_" + some(mixed, 36), "use({})"),
        "GitLab token": ("glpat-" + some(mixed, 20), "use({})"),
        "Slack token": ("xoxb-" + some(string.digits, 12) + "-" + some(mixed, 20), "use({})"),
        "Google key": ("AIza" + some(mixed, 35), "use({})"),
        "Stripe key": ("sk_live_" + some(mixed, 24), "use({})"),
        "npm token": ("npm_" + some(mixed, 36), "use({})"),
        "PyPI token": ("pypi-" + some(mixed, 80), "use({})"),
        "JSON web token": (web_token, "use({})"),
        "password in a URL": ("Tr0ub4dor" + some(mixed, 9), "see https://bob:{}@host.net/x"),
        "bearer token": (some(mixed, 30), "Authorization: Bearer {} end"),
        "named secret": ("hunter" + some(mixed, 8), 'db_password = "{}"'),
    }
    found = {kind: (value, form.format(value)) for kind, (value, form) in one_line.items()}
    return {**found, "private key": (" ".join(key), "\n".join([head, *key, tail]))}


def fragments(secret):
    """Return what of a secret would be a word or a pre-token."""
    return {part.lower() for part in re.findall(r"[A-Za-z0-9]{8,}", secret)}


@pytest.fixture(scope="module")
def secrets_run(tmp_path_factory, base_folder):
    folder = tmp_path_factory.mktemp("secrets")
    tree = data_case.write_tree(folder / "tree")
    planted = made_secrets()
    for name in ("part0/module0.py", "part3/module1.py"):
        with (tree / name).open("a", encoding="utf-8") as file:
            for _, line in itertools.chain.from_iterable(itertools.repeat(list(planted.values()), 3)):
                file.write(line + "\n")
    (tree / "part0" / "twin.py").write_bytes(b"twin_one = twin_two\n")
    source = data_case.path_source(tree, shards=2)
    settings = data_case.settings_of(source, cleaning={"near_duplicates": None})
    data = tiny_stages.run_data(folder / "results", settings, base_folder)
    return tree, planted, data_case.Chain(data)


def strings_of(value):
    if isinstance(value, dict):
        return " ".join(strings_of(v) for v in value.values())
    if isinstance(value, list):
        return " ".join(map(strings_of, value))
    return str(value)


def found_in(at, wanted):
    """Return where below a folder the texts stand: in the bytes of a file, or in the columns of a table."""
    found = []
    for path in sorted(p for p in at.rglob("*") if p.is_file()):
        text = path.read_bytes().decode("utf-8", "replace").lower()
        if path.suffix == ".parquet":
            text += strings_of(pq.read_table(path).to_pylist()).lower()
        found += [(path.relative_to(at).as_posix(), part) for part in wanted if part in text]
    return found


def test_no_secret_stands_in_any_file_of_the_results(secrets_run):
    _, planted, chain = secrets_run
    wanted = {part for value, _ in planted.values() for part in fragments(value)}
    assert len(wanted) >= len(planted)
    assert found_in(chain.at, wanted) == []


def test_the_search_for_secrets_would_find_what_is_not_redacted(secrets_run, tmp_path, base_folder):
    tree, planted, _ = secrets_run
    source = data_case.path_source(tree)
    settings = data_case.settings_of(source, cleaning={"near_duplicates": None, "redact_secrets": False})
    tiny_stages.run_data(tmp_path, settings, base_folder)
    for value, _ in planted.values():
        assert found_in(tmp_path, fragments(value))


@pytest.mark.parametrize("split", SPLITS)
def test_no_secret_stands_in_the_tokens_of_a_window(secrets_run, split):
    _, planted, chain = secrets_run
    tokenizer = Tokenizer.from_file(str(chain.at / "tokenizer" / "tokenizer" / "tokenizer.json"))
    spelt = [
        "".join(tokenizer.id_to_token(i).removeprefix("##") for i in row["input_ids"]) for row in chain.windows(split)
    ]
    wanted = {part for value, _ in planted.values() for part in fragments(value)}
    assert [part for part in wanted for text in spelt if part in text] == []


def test_every_secret_is_counted_by_its_kind(secrets_run):
    _, planted, chain = secrets_run
    found = chain.summary("corpus/ingest")["secrets"]
    assert found == dict.fromkeys(sorted(planted), 6)
    per_file = {row["path"]: row["n_secrets"] for row in chain.rows("corpus/files") if row["n_secrets"]}
    assert per_file == {name: 3 * len(planted) for name in ("part0/module0.py", "part3/module1.py")}


@pytest.mark.slow
def test_no_secret_stands_in_a_log_or_on_the_terminal(secrets_run, tmp_path, base_folder):
    tree, planted, _ = secrets_run
    settings = data_case.settings_of(data_case.path_source(tree), cleaning={"near_duplicates": None})
    made = [
        [*command, "--log", str(tmp_path / "logs" / f"{name}.log"), "--usage", str(tmp_path / "logs" / f"{name}.json")]
        for name, command in data_case.commands(tmp_path / "results", settings, base_folder)
    ]
    process = data_case.start(made)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    wanted = {part for value, _ in planted.values() for part in fragments(value)}
    assert len(list((tmp_path / "logs").iterdir())) == 3 * len(made)
    assert found_in(tmp_path, wanted) == []
    assert not [part for part in wanted if part in said.lower()]


@pytest.mark.slow
def test_a_stage_that_succeeds_says_one_line_and_no_warning(tree, tmp_path, base_folder):
    settings = data_case.settings_of(data_case.path_source(tree))
    made = [command for _, command in data_case.commands(tmp_path, settings, base_folder)]
    process = data_case.start(made)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    lines = said.splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w-]+: done in [\d.]+ s", line)] == []
    assert len(lines) == len(made)


# -- Scripts -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_scripts(tmp_path_factory):
    """A tree with Chinese comments and Cyrillic names, and a base tokenizer that can spell them."""
    folder = tmp_path_factory.mktemp("scripts")
    letters = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
    more = [*letters, *(f"##{c}" for c in letters), *"下行控制信道调度"]
    plain = tiny.vocabulary()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "vocabulary", lambda: [*plain, *more])
        tiny.write_tokenizer(folder / "base")
    tree = tiny.source_tree(folder / "tree")
    for i in range(6):
        with (tree / f"part{i}" / "module0.py").open("a", encoding="utf-8") as file:
            file.writelines(f"Скорость_{j} = мощность_{i} + harq_{j}  # 下行控制信道 {j}{i}\n" for j in range(8))
    settings = data_case.settings_of(
        data_case.path_source(tree, shards=2),
        words=WordsSettings(english_words=200, pattern=r"[\p{L}_][\p{L}\p{M}\p{N}_]*"),
    )
    return data_case.Chain(tiny_stages.run_data(folder / "out", settings, folder / "base"))


def test_words_of_every_script_are_counted_with_the_pattern_for_them(many_scripts):
    split = many_scripts.split_of()
    text = [row for row in many_scripts.lines() if split[row["file_id"]] == "train"]
    counts = {row["word"]: row["n_lines"] for row in many_scripts.rows("corpus/words")}
    for word in ("скорость_3", "скорость_7"):
        assert counts[word] == sum(word in row["code"].lower() for row in text) > 0
    assert sum(bool(re.fullmatch(r"мощность_\d", w)) for w in counts) == 6
    assert not [w for w in counts if "下" in w]  # comments are no code


def test_words_of_every_script_stand_in_pairs(many_scripts):
    word = many_scripts.word()
    ends = {word[r[c]] for r in many_scripts.rows("pairs/train") for c in ("word_id_a", "word_id_b") if r["label"]}
    assert any(w.startswith("скорость") for w in ends)


def test_windows_hold_the_tokens_of_chinese_comments_and_cyrillic_names(many_scripts):
    tokenizer = Tokenizer.from_file(str(many_scripts.at / "tokenizer" / "tokenizer" / "tokenizer.json"))
    wanted = {tokenizer.token_to_id(c) for c in "下行控制信道"}
    lines = defaultdict(dict)
    for row in many_scripts.lines():
        lines[row["file_id"]][row["line_no"]] = row["text"]
    seen = Counter()
    for split in SPLITS:
        for row in many_scripts.windows(split):
            own = [text for n, text in lines[row["file_id"]].items() if row["first_line"] <= n <= row["last_line"]]
            assert row["input_ids"] == tokenizer.encode("\n".join(own), add_special_tokens=False).ids[:46]
            seen.update(row["input_ids"])
    assert wanted <= set(seen)
    assert tokenizer.token_to_id("[UNK]") not in seen


# -- Copies ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies(tmp_path_factory, base_folder):
    folder = tmp_path_factory.mktemp("copies")
    one = tiny.source_tree(folder / "one")
    two = tiny.source_tree(folder / "two", n_directories=3, seed=9)
    original = one / "part2" / "module0.py"
    with original.open("a", encoding="utf-8") as file:
        file.writelines(f"onlytwinzz_{i} = harq_process_of_twin_{i}(onlytwinzz)\n" for i in range(5))
    text = original.read_text(encoding="utf-8")
    (two / "part1" / "exact.py").write_text(text, encoding="utf-8")
    (two / "part1" / "near.py").write_text(text + "one_line_more = that_is_long_enough\n", encoding="utf-8")
    sources = [data_case.path_source(path, name=path.name, shards=2) for path in (one, two)]

    def run(**cleaning):
        name = "-".join(["out", *cleaning])
        data = tiny_stages.run_data(folder / name, data_case.settings_of(*sources, cleaning=cleaning), base_folder)
        return data_case.Chain(data)

    return run


@pytest.fixture(scope="module")
def without_copies(copies):
    return copies()


def test_a_copy_in_another_source_is_dropped_and_its_twin_named(without_copies):
    files = without_copies.files()
    assert files["two:part1/exact.py"]["reason"] == "duplicate of one:part2/module0.py"
    near = files["two:part1/near.py"]["reason"]
    assert re.fullmatch(r"near duplicate of one:part2/module0\.py \(9\d % of their lines\)", near)
    assert files["one:part2/module0.py"]["kept"]
    account = without_copies.summary("corpus/ingest")["accounting"]
    assert (account["duplicate"]["files"], account["near duplicate"]["files"]) == (1, 1)
    assert account["duplicate"]["lines"] == files["one:part2/module0.py"]["n_lines"]


def test_the_words_of_a_twin_are_counted_once(without_copies, copies):
    every = copies(drop_duplicates=False, near_duplicates=None)
    n_lines = [{row["word"]: row["n_lines"] for row in chain.rows("corpus/words")} for chain in (without_copies, every)]
    split = without_copies.files()["one:part2/module0.py"]["split"]
    assert every.files()["two:part1/near.py"]["split"] == every.files()["one:part2/module0.py"]["split"]
    factor = every.files()["one:part2/module0.py"]["split"] == "train"
    assert n_lines[0]["onlytwinzz"] == (5 if split == "train" else 0)
    assert n_lines[1]["onlytwinzz"] == 15 * factor
    assert without_copies.summary("corpus/words")["occurrences"] < every.summary("corpus/words")["occurrences"]


def test_a_dropped_copy_gives_no_window_and_no_pair(without_copies):
    dropped = {row["file_id"] for row in without_copies.rows("corpus/files") if not row["kept"]}
    assert len(dropped) == 2
    for split in SPLITS:
        assert not dropped & {row["file_id"] for row in without_copies.windows(split)}
        assert not dropped & {row["file_id"] for row in without_copies.rows(f"pairs/{split}")}
    assert not dropped & {row["file_id"] for row in without_copies.rows("pairs/heldout_lines")}


def test_files_with_too_many_lines_in_common_stay_in_one_split(copies):
    found = copies(drop_duplicates=False, near_duplicates=None).files()
    names = ("one:part2/module0.py", "two:part1/exact.py", "two:part1/near.py")
    assert len({found[name]["split"] for name in names}) == 1
    assert all(found[name]["kept"] for name in names)
