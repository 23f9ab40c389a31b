import hashlib
import json
import re
from collections import Counter, defaultdict
from itertools import combinations, pairwise
from pathlib import PurePosixPath

import pytest
from tokenizers import Tokenizer

import data_case
import tiny_stages
from commbert import tables
from commbert.artifacts import verify_folder
from commbert.corpus.reading import LEXED
from commbert.errors import DataError, SourceError
from commbert.known import read_known
from commbert.settings.pairs import PairsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings
from commbert.stages import corpus as corpus_stage
from commbert.stages import draw as draw_stage
from commbert.stages import lex as lex_stage
from commbert.stages import pairs as pairs_stage
from commbert.stages import tokenizer as tokenizer_stage
from commbert.stages import windows as windows_stage
from commbert.stages import words as words_stage
from commbert.text.languages import KEYWORDS

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def split_of(chain):
    return chain.split_of()


@pytest.fixture(scope="module")
def words_of_line(chain):
    """Map (file, line) to the words of its code, found with the standard library."""
    return {
        (row["file_id"], row["line_no"]): set(re.findall(r"\b[a-z_][a-z0-9_]+\b", row["code"].lower(), re.ASCII))
        for row in chain.lines()
    }


@pytest.fixture(scope="module")
def word(chain):
    return chain.word()


def named(row, word):
    return tuple(sorted((word[row["word_id_a"]], word[row["word_id_b"]])))


def pairs_of_lines(words_of_line, split_of, splits):
    return {
        tuple(sorted(pair))
        for (file_id, _), words in words_of_line.items()
        if split_of[file_id] in splits
        for pair in combinations(words, 2)
    }


def test_every_table_has_its_schema_and_rows(chain):
    for name, table in data_case.TABLES.items():
        read = tables.read(chain.at / f"{name}.parquet", table)
        assert read.schema == table.schema
        # The tree has no function and no acronym, and so no pairs of texts.
        has_none = name in ("corpus/functions", "corpus/acronyms") or name.startswith("texts/")
        assert read.num_rows > 0 or has_none, name
    for split in SPLITS:
        assert chain.windows(split)
    for shard in chain.data.shards:
        for path, table in (
            (chain.data.shard_files(shard), tables.SHARD_FILES),
            (chain.data.lines(shard), tables.LINES),
            (chain.data.windows(shard).hashes, tables.HASHES),
            (chain.data.drawn(shard) / draw_stage.DRAWN, tables.DRAWN),
        ):
            assert tables.read(path, table).num_rows > 0, path
        keys = [chain.data.drawn(shard) / name for name in draw_stage.KEYS.values()]
        assert sum(tables.read(path, tables.PAIR_KEYS).num_rows for path in keys) > 0
        for names in LEXED.values():
            folder = chain.data.lexed(shard)
            assert tables.read(folder / names["strings"], tables.SHARD_WORDS).num_rows > 0
            assert tables.read(folder / names["lines"], tables.LINE_CODES).num_rows > 0
            assert tables.read(folder / names["counts"], tables.FILE_COUNTS).num_rows > 0


def test_nothing_half_written_is_left(chain):
    assert [p.name for p in chain.at.rglob(".*")] == []


def test_files_come_directory_by_directory_with_every_file_of_the_tree_once(chain, tree):
    def place(path):
        folder = str(PurePosixPath(path).parent)
        return hashlib.blake2b(folder.encode(), digest_size=8).digest(), path.encode()

    expected = [p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()]
    found = chain.rows("corpus/files")
    assert [row["path"] for row in found] == sorted(expected, key=place)
    assert [row["file_id"] for row in found] == list(range(len(found)))


def test_a_directory_lies_in_one_shard_and_the_shards_are_told_with_their_files(chain):
    shards_of = defaultdict(set)
    for shard in chain.data.shards:
        for row in tables.read(chain.data.shard_files(shard), tables.SHARD_FILES).to_pylist():
            shards_of[row["path"].split("/")[0]].add(shard)
    assert len(shards_of) == 6
    assert all(len(shards) == 1 for shards in shards_of.values())
    assert [s["shard"] for s in chain.summary("corpus/shards")] == list(chain.data.shards)
    assert [s["files"] for s in chain.summary("corpus/shards")] == [
        tables.read(chain.data.shard_files(s), tables.SHARD_FILES).num_rows for s in chain.data.shards
    ]


def test_dropped_files_say_why_and_have_no_split_and_no_lines(chain):
    dropped = {row["path"]: row for row in chain.rows("corpus/files") if not row["kept"]}
    assert {path: row["reason"] for path, row in dropped.items()} == {
        "part0/twin.py": "duplicate of tree:part0/module0.py",
        "part1/notes.md": "not included",
        "part2/data.py": "binary",
    }
    assert {row["split"] for row in dropped.values()} == {""}
    ids = {row["file_id"] for row in dropped.values()}
    for split in SPLITS:
        assert not ids & {row["file_id"] for row in chain.windows(split)}
        assert not ids & {row["file_id"] for row in chain.rows(f"pairs/{split}")}
    assert not ids & {row["file_id"] for row in chain.rows("pairs/heldout_lines")}


def test_the_accounting_of_the_stage_adds_up_to_the_tree(chain, tree):
    files = [p for p in tree.rglob("*") if p.is_file()]
    account = chain.summary("corpus/ingest")["accounting"].values()
    assert sum(row["files"] for row in account) == len(files)
    assert sum(row["bytes"] for row in account) == sum(p.stat().st_size for p in files)
    n_lines = sum(p.read_bytes().count(b"\n") for p in files if p.suffix == ".py")
    assert sum(row["lines"] for row in account) == n_lines


def test_each_directory_stands_in_one_split(chain):
    of = defaultdict(set)
    for row in chain.rows("corpus/files"):
        if row["kept"]:
            of[row["path"].split("/")[0]].add(row["split"])
    assert sorted(Counter(min(s) for s in of.values()).items()) == [("test", 1), ("train", 4), ("validation", 1)]
    assert all(len(s) == 1 for s in of.values())


def test_the_summary_counts_the_files_and_lines_of_each_split(chain):
    found = chain.summary("corpus/ingest")["splits"]
    for split in SPLITS:
        own = [row for row in chain.rows("corpus/files") if row["split"] == split]
        folders = sorted({f"tree:{PurePosixPath(row['path']).parent}" for row in own})
        assert found[split] == {
            "files": len(own),
            "lines": sum(row["n_used_lines"] for row in own),
            "n_directories": len(folders),
            "directories": folders,
        }


def test_the_summary_lists_each_directory_under_one_split(chain):
    directories = [d for split in chain.summary("corpus/ingest")["splits"].values() for d in split["directories"]]
    assert sorted(directories) == [f"tree:part{d}" for d in range(6)]


def test_the_summary_names_the_source_with_its_licence_and_lines(chain):
    kept = [row for row in chain.rows("corpus/files") if row["kept"]]
    [source] = chain.summary("corpus/ingest")["sources"]
    assert (source["name"], source["kind"], source["license"]) == ("tree", "path", "unknown")
    assert (source["files_used"], source["lines_used"]) == (len(kept), sum(row["n_used_lines"] for row in kept))


def test_a_path_source_is_held_to_its_digest(tmp_path, chain, tree):
    [source] = chain.summary("corpus/ingest")["sources"]
    good = data_case.settings_of(data_case.path_source(tree, digest=source["digest"], shards=2))
    data_case.read_corpus(tmp_path / "good", good.corpus)
    bad = data_case.settings_of(data_case.path_source(tree, digest="0" * 16))
    with pytest.raises(SourceError, match=f"source tree: expected digest 0{{16}}, found {source['digest']}"):
        data_case.read_corpus(tmp_path / "bad", bad.corpus)


def test_examples_of_files_that_were_left_out_name_them_with_their_reason(chain):
    assert sorted(chain.summary("corpus/ingest")["skipped_examples"]) == [
        "tree:part0/twin.py: duplicate of tree:part0/module0.py",
        "tree:part2/data.py: binary",
    ]


def test_of_one_reason_five_examples_are_given(tmp_path, tree):
    folder = data_case.write_tree(tmp_path / "tree")
    for i in range(9):
        (folder / "part1" / f"null{i}.py").write_bytes(b"\0%d" % i)
    chain = data_case.read_corpus(tmp_path / "out", data_case.settings_of(data_case.path_source(folder)).corpus)
    assert sum(e.endswith(": binary") for e in chain.summary("corpus/ingest")["skipped_examples"]) == 5


def test_the_lines_are_those_of_the_files(chain, tree):
    path_of = {row["file_id"]: row["path"] for row in chain.rows("corpus/files")}
    for row in chain.lines():
        raw = (tree / path_of[row["file_id"]]).read_text(encoding="utf-8").split("\n")[row["line_no"] - 1]
        assert row["text"] == raw.strip() != ""
        assert row["code"] == ("" if row["line_no"] <= 2 else raw.split("#")[0].strip())


def test_the_codes_of_a_line_are_its_words_and_its_pre_tokens(chain):
    for shard in chain.data.shards:
        strings, coded = {}, {}
        for kind, names in LEXED.items():
            folder = chain.data.lexed(shard)
            strings[kind] = tables.read(folder / names["strings"], tables.SHARD_WORDS)["word"].to_pylist()
            read = tables.read(folder / names["lines"], tables.LINE_CODES).to_pylist()
            coded[kind] = {(r["file_no"], r["line_no"]): [strings[kind][c] for c in r["codes"]] for r in read}
        for row in tables.read(chain.data.lines(shard), tables.LINES).to_pylist():
            at = row["file_no"], row["line_no"]
            words = set(re.findall(r"\b[a-z_][a-z0-9_]+\b", row["code"].lower(), re.ASCII))
            assert set(coded["word"].get(at, [])) == (words if len(words) >= 2 else set())
            assert coded["pretoken"][at] == re.findall(r"\w+|[^\w\s]", row["text"].lower().replace("_", " _ "))


def test_the_counts_of_words_are_of_the_training_split_only(chain, split_of, words_of_line):
    n_lines, files = Counter(), defaultdict(set)
    for (file_id, _), words in words_of_line.items():
        if split_of[file_id] == "train":
            n_lines.update(words)
            for w in words:
                files[w].add(file_id)
    found = chain.rows("corpus/words")
    assert {r["word"]: (r["n_lines"], r["n_files"]) for r in found} == {
        w: (n_lines[w], len(files[w])) for w in set().union(*words_of_line.values())
    }
    assert any(r["n_lines"] == 0 for r in found)


def test_words_are_numbered_by_count_then_alphabet(chain):
    found = chain.rows("corpus/words")
    assert [r["word_id"] for r in found] == list(range(len(found)))
    assert [r["word"] for r in found] == [r["word"] for r in sorted(found, key=lambda r: (-r["n_lines"], r["word"]))]


def test_the_summary_of_words_counts_them(chain, words_of_line):
    rows, found = chain.rows("corpus/words"), chain.summary("corpus/words")
    english = chain.summary("corpus/english")
    assert found["words"] == len(rows)
    assert found["words_in_training"] == sum(r["n_lines"] > 0 for r in rows) < len(rows)
    assert found["occurrences"] == sum(map(len, words_of_line.values()))
    assert found["english_words"] == len(english) == 500
    assert found["words_in_english_pct"] == pytest.approx(100 * sum(r["word"] in english for r in rows) / len(rows))
    assert found["most_frequent"] == [r["word"] for r in rows[:20]]


def test_keywords_are_marked_in_the_word_table(chain):
    rows = chain.rows("corpus/words")
    assert {r["word"] for r in rows if r["is_keyword"]} == {r["word"] for r in rows} & KEYWORDS


def test_the_held_out_lines_hold_the_words_of_their_code(chain, split_of, words_of_line, word):
    found = {(r["file_id"], r["line_no"]): [word[i] for i in r["word_ids"]] for r in chain.rows("pairs/heldout_lines")}
    assert {at: set(words) for at, words in found.items()} == {
        at: words for at, words in words_of_line.items() if len(words) >= 2 and split_of[at[0]] != "train"
    }
    assert all(len(words) == len(set(words)) for words in found.values())


@pytest.mark.parametrize("shards", [1, 3])
def test_the_held_out_lines_come_in_the_order_of_the_corpus(run_shards, shards):
    rows = run_shards(shards).rows("pairs/heldout_lines")
    at = [(r["file_id"], r["line_no"]) for r in rows]
    assert at == sorted(at)
    assert all(r["word_ids"] == sorted(r["word_ids"]) for r in rows)


def test_new_entries_are_frequent_in_training_files_alone(chain, split_of):
    counts, files = Counter(), defaultdict(set)
    for row in chain.lines():
        if split_of[row["file_id"]] == "train":
            for part in re.findall("[a-z0-9]+", row["text"].lower()):
                counts[part] += 1
                files[part].add(row["file_id"])
    new = chain.summary("tokenizer/tokenizer/new_words")
    assert len([w for w in new if re.fullmatch("only[a-f]zz", w)]) == 4  # one for each training directory
    assert all(counts[w] >= 3 and len(files[w]) >= 2 for w in new)


def test_the_tokenizer_folder_is_whole(chain):
    manifest = verify_folder(chain.at / "tokenizer" / "tokenizer")
    assert sorted(manifest["files"]) == ["new_words.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def test_each_word_carries_its_token_ids_and_its_pieces_before(chain, base_folder):
    after = Tokenizer.from_file(str(chain.at / "tokenizer" / "tokenizer" / "tokenizer.json"))
    before = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    before.no_padding()
    before.no_truncation()
    for row in chain.rows("tokenizer/words"):
        assert row["token_ids"] == after.encode(row["word"], add_special_tokens=False).ids
        assert row["n_pieces_before"] == len(before.encode(row["word"], add_special_tokens=False).ids)


def test_english_words_follow_the_words_of_the_code_without_repeating_them(chain):
    found = chain.rows("tokenizer/words")
    code = [r["word"] for r in chain.rows("corpus/words")]
    english = chain.summary("corpus/english")
    assert [r["word"] for r in found] == code + [w for w in english if w not in set(code)]
    assert [r["word_id"] for r in found] == list(range(len(found)))
    assert len({r["word"] for r in found}) == len(found)
    assert all(r["in_code"] == (r["word_id"] < len(code)) for r in found)
    assert all(r["in_english"] == (r["word"] in english) for r in found)
    counts = {r["word"]: (r["n_lines"], r["n_files"]) for r in chain.rows("corpus/words")}
    assert all((r["n_lines"], r["n_files"]) == counts.get(r["word"], (0, 0)) for r in found)


@pytest.mark.parametrize("split", SPLITS)
def test_a_window_holds_the_tokens_of_its_lines_in_the_file(chain, split_of, split):
    tokenizer = Tokenizer.from_file(str(chain.at / "tokenizer" / "tokenizer" / "tokenizer.json"))
    lines, stream = defaultdict(dict), defaultdict(list)
    for row in chain.lines():
        lines[row["file_id"]][row["line_no"]] = row["text"]
        stream[row["file_id"]] += tokenizer.encode(row["text"], add_special_tokens=False).ids
    for row in chain.windows(split):
        assert split_of[row["file_id"]] == split
        own = [text for n, text in lines[row["file_id"]].items() if row["first_line"] <= n <= row["last_line"]]
        expected = tokenizer.encode("\n".join(own), add_special_tokens=False).ids
        assert row["input_ids"] == expected[:46]
        assert row["n_tokens"] == len(row["input_ids"]) <= 46
        at = row["first_token"]
        assert stream[row["file_id"]][at : at + row["n_tokens"]] == row["input_ids"]


def test_every_training_line_is_the_centre_of_one_window(chain, split_of):
    lines = [(r["file_id"], r["line_no"]) for r in chain.lines() if split_of[r["file_id"]] == "train"]
    assert [(r["file_id"], r["line_no"]) for r in chain.windows("train")] == lines


@pytest.mark.parametrize("split", SPLITS[1:])
def test_no_line_stands_in_two_held_out_windows(chain, split):
    found = chain.windows(split)
    assert all(a["file_id"] != b["file_id"] or a["last_line"] < b["first_line"] for a, b in pairwise(found))


def test_the_leak_of_lines_is_the_one_counted_by_hand(chain, split_of):
    text = defaultdict(list)
    for row in chain.lines():
        text[split_of[row["file_id"]]].append(row["text"])
    for split in SPLITS[1:]:
        seen = [t in set(text["train"]) for t in text[split]]
        found = chain.summary("windows/summary")["leakage"][split]["lines_seen_in_training_pct"]
        assert found == pytest.approx(100 * sum(seen) / len(seen))


def test_the_leak_of_long_lines_and_windows_is_the_one_counted_by_hand(chain, split_of):
    tokenizer = Tokenizer.from_file(str(chain.at / "tokenizer" / "tokenizer" / "tokenizer.json"))
    lines = defaultdict(list)
    for row in chain.lines():
        lines[split_of[row["file_id"]]].append(tuple(tokenizer.encode(row["text"], add_special_tokens=False).ids))
    windows = {split: [tuple(row["input_ids"]) for row in chain.windows(split)] for split in SPLITS}
    for split in SPLITS[1:]:
        found = chain.summary("windows/summary")["leakage"][split]
        long = [ids for ids in lines[split] if len(ids) >= 8]
        seen = [ids in set(lines["train"]) for ids in long]
        assert found["long_lines_seen_in_training_pct"] == pytest.approx(100 * sum(seen) / len(seen))
        seen = [ids in set(windows["train"]) for ids in windows[split]]
        assert found["windows_seen_in_training_pct"] == pytest.approx(100 * sum(seen) / len(seen))


def test_the_summary_of_windows_counts_them(chain):
    found = chain.summary("windows/summary")["splits"]
    for split in SPLITS:
        rows = chain.windows(split)
        tokens = sum(row["n_tokens"] for row in rows)
        assert (found[split]["windows"], found[split]["tokens"]) == (len(rows), tokens)
        assert found[split]["tokens_per_window"] == pytest.approx(tokens / len(rows))
        shortened = sum(row["n_dropped_lines"] > 0 for row in rows)
        assert found[split]["windows_with_dropped_lines_pct"] == pytest.approx(100 * shortened / len(rows))


def run_windows(chain, out, **changes):
    parts = []
    for shard in chain.data.shards:
        parts.append(tiny_stages.Data(out, ()).windows(shard))
        windows_stage.run(
            WindowsSettings(**{"max_length": 48, **changes}),
            files=chain.data.files,
            shards=chain.at / "corpus" / "shards.json",
            lexed=chain.data.lexed(shard),
            tokenizer=chain.at / "tokenizer" / "tokenizer",
            out=parts[-1],
        )
    lists = tiny_stages.Data(out, ()).window_lists
    windows_stage.gather(parts, out=lists, summary_out=out / "windows" / "summary.json")
    return data_case.Chain(tiny_stages.Data(out, chain.data.shards))


def centres(chain, split="train"):
    return [(row["file_id"], row["line_no"]) for row in chain.windows(split)]


def test_a_limit_draws_that_many_windows_over_all_files_in_order(chain, tmp_path):
    every, drawn = centres(chain), centres(run_windows(chain, tmp_path, max_windows=60))
    assert (len(drawn), drawn) == (60, sorted(drawn))
    assert set(drawn) <= set(every)
    assert len({file_id for file_id, _ in drawn}) == len({file_id for file_id, _ in every})


@pytest.mark.parametrize("stride", [1, 3])
def test_the_windows_that_a_limit_draws_do_not_depend_on_the_shards(run_shards, tmp_path, stride):
    one, three = (centres(run_windows(run_shards(n), tmp_path / str(n), max_windows=60, stride=stride)) for n in (1, 3))
    assert one == three
    assert len(one) == 60


def test_a_limit_above_all_windows_keeps_them_all(chain, tmp_path):
    n = len(centres(chain))
    assert centres(run_windows(chain, tmp_path / "a", max_windows=n)) == centres(chain)
    assert centres(run_windows(chain, tmp_path / "b", max_windows=n + 1)) == centres(chain)
    assert len(centres(run_windows(chain, tmp_path / "c", max_windows=n - 1))) == n - 1


def test_a_training_stride_takes_every_third_line_of_a_file(chain, tmp_path, split_of):
    lines = defaultdict(list)
    for row in chain.lines():
        if split_of[row["file_id"]] == "train":
            lines[row["file_id"]].append((row["file_id"], row["line_no"]))
    found = centres(run_windows(chain, tmp_path, stride=3))
    assert found == [at for _, of_file in sorted(lines.items()) for at in of_file[::3]]


def test_the_draw_of_windows_follows_its_seed_alone(chain, tmp_path):
    one = centres(run_windows(chain, tmp_path / "a", max_windows=60))
    assert one == centres(run_windows(chain, tmp_path / "b", max_windows=60))
    assert one != centres(run_windows(chain, tmp_path / "c", max_windows=60, seed=18))


def test_a_limit_of_windows_leaves_the_held_out_splits_alone(chain, tmp_path):
    drawn = run_windows(chain, tmp_path / "some", max_windows=5)
    for split in SPLITS[1:]:
        assert drawn.windows(split) == chain.windows(split)


def test_the_list_of_windows_takes_parts_of_earlier_shards_away(chain, tmp_path):
    stale = tmp_path / "windows" / "train" / "tree-00000-of-00009.parquet"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    run_windows(chain, tmp_path)
    assert not stale.exists()


def test_a_list_of_windows_refuses_a_part_that_is_not_the_one_it_names(chain, tmp_path):
    made = run_windows(chain, tmp_path)
    part = made.data.windows(chain.data.shards[0]).windows["train"]
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(DataError, match="not the file that"):
        made.windows("train")


def test_known_pairs_are_the_pairs_of_training_lines_and_no_others(chain, split_of, words_of_line, word):
    keys = read_known(chain.data.pairs.known)
    found = {tuple(sorted((word[int(k) >> 32], word[int(k) & 0xFFFFFFFF]))) for k in keys}
    assert found == pairs_of_lines(words_of_line, split_of, ["train"])
    assert chain.summary("pairs/summary")["known_pairs"] == len(keys)


@pytest.mark.parametrize("split", SPLITS)
def test_the_words_of_a_positive_stand_on_its_line_in_its_split(chain, split_of, words_of_line, word, split):
    for row in chain.rows(f"pairs/{split}"):
        assert split_of[row["file_id"]] == split
        if row["label"]:
            assert row["kind"] == "same_line"
            assert set(named(row, word)) <= words_of_line[row["file_id"], row["line_no"]]
            assert row["word_id_a"] != row["word_id_b"]


@pytest.mark.parametrize("split", SPLITS)
def test_each_positive_is_followed_by_its_negatives_with_its_anchor_and_line(chain, split):
    last = None
    for row in chain.rows(f"pairs/{split}"):
        if row["label"]:
            last, kinds = row, []
            continue
        assert [row[k] for k in ("word_id_a", "file_id", "line_no")] == [
            last[k] for k in ("word_id_a", "file_id", "line_no")
        ]
        assert row["kind"] not in kinds
        kinds.append(row["kind"])


@pytest.mark.parametrize("split", SPLITS)
def test_positives_come_in_the_order_of_their_lines_and_words(chain, split):
    found = [r for r in chain.rows(f"pairs/{split}") if r["label"]]
    at = [(r["file_id"], r["line_no"], *sorted((r["word_id_a"], r["word_id_b"]))) for r in found]
    assert at == sorted(at)
    assert len(set(at)) == len(at)
    # Which of the two is the anchor is drawn.
    assert {r["word_id_a"] < r["word_id_b"] for r in found} == {True, False}


def test_an_english_negative_of_training_is_english_and_shares_no_training_line(chain, split_of, words_of_line, word):
    together = pairs_of_lines(words_of_line, split_of, ["train"])
    in_english = [row["in_english"] for row in chain.rows("tokenizer/words")]
    negatives = [row for row in chain.rows("pairs/train") if not row["label"]]
    assert {row["kind"] for row in negatives} == {"english"}
    assert all(in_english[row["word_id_b"]] for row in negatives)
    assert not together & {named(r, word) for r in negatives}


@pytest.mark.parametrize("split", SPLITS[1:])
def test_a_held_out_negative_shares_no_line_anywhere(chain, split_of, words_of_line, word, split):
    together = pairs_of_lines(words_of_line, split_of, SPLITS)
    negatives = [row for row in chain.rows(f"pairs/{split}") if not row["label"]]
    assert {row["kind"] for row in negatives} == {"english", "random_code", "frequency_matched", "lexical"}
    assert not together & {named(r, word) for r in negatives}


@pytest.mark.parametrize("split", SPLITS[1:])
def test_a_random_negative_is_a_word_of_training_code(chain, split):
    n_lines = [row["n_lines"] for row in chain.rows("tokenizer/words")]
    found = [r for r in chain.rows(f"pairs/{split}") if r["kind"] == "random_code"]
    assert found
    assert all(n_lines[r["word_id_b"]] > 0 for r in found)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_a_frequency_matched_negative_is_a_positive_of_another_pair(chain, split):
    rows = chain.rows(f"pairs/{split}")
    positives = {r["word_id_b"] for r in rows if r["label"]}
    assert {r["word_id_b"] for r in rows if r["kind"] == "frequency_matched"} <= positives


@pytest.mark.parametrize("split", SPLITS[1:])
def test_no_held_out_positive_comes_twice(chain, split):
    pairs = [tuple(sorted((r["word_id_a"], r["word_id_b"]))) for r in chain.rows(f"pairs/{split}") if r["label"]]
    assert len(set(pairs)) == len(pairs) == 100


@pytest.mark.parametrize("split", SPLITS[1:])
def test_the_leak_of_pairs_is_the_share_of_known_positives(chain, split_of, words_of_line, word, split):
    known = pairs_of_lines(words_of_line, split_of, ["train"])
    pairs = [named(r, word) for r in chain.rows(f"pairs/{split}") if r["label"]]
    expected = 100 * sum(p in known for p in pairs) / len(pairs)
    assert chain.summary("pairs/summary")["leakage"][split]["pairs_seen_in_training_pct"] == pytest.approx(expected)


def test_the_summary_counts_the_pairs_of_every_kind(chain, split_of, words_of_line):
    found = chain.summary("pairs/summary")["splits"]
    for split in SPLITS:
        rows = chain.rows(f"pairs/{split}")
        kinds = Counter(r["kind"] for r in rows)
        assert {kind: found[split][kind] for kind in kinds} == kinds
        distinct = {tuple(sorted((r["word_id_a"], r["word_id_b"]))) for r in rows if r["label"]}
        assert found[split]["distinct_same_line"] == len(distinct)


def run_pairs(chain, out, **changes):
    settings = PairsSettings(**changes)
    data = tiny_stages.Data(out, chain.data.shards)
    for shard in chain.data.shards:
        draw_stage.run(
            settings,
            files=chain.data.files,
            shards=chain.at / "corpus" / "shards.json",
            lexed=chain.data.lexed(shard),
            words=chain.at / "corpus" / "words.parquet",
            out=data.drawn(shard),
        )
    pairs_stage.run(
        settings,
        folders=[data.drawn(shard) for shard in chain.data.shards],
        files=chain.data.files,
        words=chain.at / "tokenizer" / "words.parquet",
        out=data.pairs,
    )
    return data_case.Chain(data)


def test_keywords_stand_in_pairs_only_where_the_setting_keeps_them(chain, tmp_path, word):
    def used(made):
        return {word[r[c]] for s in SPLITS for r in made.rows(f"pairs/{s}") for c in ("word_id_a", "word_id_b")}

    assert not used(run_pairs(chain, tmp_path / "without")) & KEYWORDS
    assert used(run_pairs(chain, tmp_path / "with", drop_keywords=False, english_negatives=4)) & KEYWORDS


def test_all_positives_are_kept_where_nothing_limits_them(chain, tmp_path, split_of, words_of_line):
    made = run_pairs(chain, tmp_path / "p", max_positives=None, subsample=None, drop_keywords=False)
    n = {
        split: sum(len(w) * (len(w) - 1) // 2 for (f, _), w in words_of_line.items() if split_of[f] == split)
        for split in SPLITS
    }
    assert sum(r["label"] for r in made.rows("pairs/train")) == n["train"]
    possible = made.summary("pairs/summary")["splits"]
    assert {split: possible[split]["possible_positives"] for split in SPLITS} == n


@pytest.mark.parametrize("max_positives", [1, 50, 137])
def test_the_limit_of_positives_is_kept_and_every_one_gets_its_negatives(chain, tmp_path, max_positives):
    made = run_pairs(chain, tmp_path, max_positives=max_positives, subsample=None, english_negatives=3)
    labels = Counter(r["label"] for r in made.rows("pairs/train"))
    assert labels == {1: max_positives, 0: 3 * max_positives}


def test_the_pairs_that_a_limit_chooses_do_not_depend_on_the_shards(run_shards, tmp_path):
    changes = {"max_positives": 50, "heldout_positives": 30, "max_words_per_line": 3}
    one, three = (run_pairs(run_shards(n), tmp_path / str(n), **changes) for n in (1, 3))
    for split, n in zip(SPLITS, (50, 30, 30), strict=True):
        assert one.rows(f"pairs/{split}") == three.rows(f"pairs/{split}")
        assert sum(r["label"] for r in one.rows(f"pairs/{split}")) == n


HARD = {"english_negatives": 1, "code_negatives": 3, "lexical_negatives": 2, "subsample": None}


@pytest.fixture(scope="module")
def hard(chain, tmp_path_factory):
    return run_pairs(chain, tmp_path_factory.mktemp("hard"), **HARD)


def test_a_negative_of_training_never_shares_a_training_line(hard, split_of, words_of_line, word):
    together = pairs_of_lines(words_of_line, split_of, ["train"])
    negatives = [row for row in hard.rows("pairs/train") if not row["label"]]
    assert {row["kind"] for row in negatives} == {"english", "random_code", "lexical"}
    assert not together & {named(r, word) for r in negatives}


def test_each_positive_has_its_negatives_of_every_kind_and_its_anchor(hard):
    anchor, kinds = None, []
    for row in hard.rows("pairs/train"):
        if row["label"]:
            anchor, kinds = row, []
        kinds.append(row["kind"])
        assert all(row[k] == anchor[k] for k in ("word_id_a", "file_id", "line_no"))
        assert kinds == sorted(kinds, key=["same_line", "english", "random_code", "lexical"].index)
        assert Counter(kinds)["random_code"] <= 3
        assert Counter(kinds)["lexical"] <= 2
    found = hard.summary("pairs/summary")["splits"]["train"]
    assert {k: found[k] for k in ("english", "random_code", "lexical")} == {
        k: sum(r["kind"] == k for r in hard.rows("pairs/train")) for k in ("english", "random_code", "lexical")
    }
    assert found["random_code"] == 3 * found["same_line"]


def test_the_code_negatives_of_a_pair_are_drawn_each_for_itself(hard):
    drawn: list[list[int]] = []
    for row in hard.rows("pairs/train"):
        if row["label"]:
            drawn.append([])
        elif row["kind"] == "random_code":
            drawn[-1].append(row["word_id_b"])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert sum(group[a] == group[b] for group in drawn) < 0.3 * len(drawn)


def test_code_and_lexical_negatives_are_words_of_training_code_and_no_keywords(hard, chain, word):
    n_lines = [row["n_lines"] for row in chain.rows("tokenizer/words")]
    found = {r["word_id_b"] for r in hard.rows("pairs/train") if r["kind"] in ("random_code", "lexical")}
    assert all(n_lines[w] > 0 and word[w] not in KEYWORDS for w in found)


def test_a_lexical_negative_shares_a_sub_word_with_its_anchor_and_comes_once(hard, word):
    def parts(name):
        return {p for p in re.findall(r"[a-z]+|[0-9]+", name) if len(p) >= 2}

    group: list[int] = []
    sizes = []
    for row in hard.rows("pairs/train"):
        group = [] if row["label"] else group
        if row["kind"] == "lexical":
            assert parts(word[row["word_id_a"]]) & parts(word[row["word_id_b"]])
            group.append(row["word_id_b"])
            sizes.append(len(set(group)))
            assert sizes[-1] == len(group)
    assert set(sizes) == {1, 2}


def test_code_negatives_follow_the_frequency_to_the_power_of_three_quarters(hard, chain, word):
    table = chain.rows("tokenizer/words")
    weight = {r["word_id"]: r["n_lines"] ** 0.75 for r in table if r["n_lines"] > 0 and r["word"] not in KEYWORDS}
    counts = Counter(r["word_id_b"] for r in hard.rows("pairs/train") if r["kind"] == "random_code")
    assert set(counts) <= set(weight)
    frequent = sorted(weight, key=weight.get)[-len(weight) // 4 :]
    share = sum(counts[w] for w in frequent) / counts.total()
    # Frequent words share lines with many anchors and are then drawn again; evenly drawn they would be a quarter.
    assert share > 0.35


def test_the_negatives_of_training_do_not_depend_on_the_shards(run_shards, tmp_path):
    one, three = (run_pairs(run_shards(n), tmp_path / str(n), max_positives=80, **HARD) for n in (1, 3))
    rows = one.rows("pairs/train")
    assert rows == three.rows("pairs/train")
    assert Counter(r["kind"] for r in rows)["lexical"] > 20


def test_more_negatives_of_one_kind_leave_those_of_the_others_as_they_are(chain, hard, tmp_path):
    def of(made, kind):
        return [r for r in made.rows("pairs/train") if r["kind"] == kind]

    plain = run_pairs(chain, tmp_path, subsample=None)
    assert of(plain, "english") == of(hard, "english")
    assert of(plain, "same_line") == of(hard, "same_line")
    assert not of(plain, "lexical") + of(plain, "random_code")


def test_a_smaller_limit_chooses_some_of_the_pairs_of_a_larger_one(chain, tmp_path):
    def positives(n):
        rows = run_pairs(chain, tmp_path / str(n), max_positives=n).rows("pairs/train")
        return {tuple(r[k] for k in ("word_id_a", "word_id_b", "file_id", "line_no")) for r in rows if r["label"]}

    assert positives(40) < positives(80) < positives(None)


def test_a_line_of_too_many_words_gives_the_pairs_of_that_many(chain, tmp_path):
    made = run_pairs(chain, tmp_path, max_words_per_line=2, max_positives=None, subsample=None, drop_keywords=False)
    per_line = Counter((r["file_id"], r["line_no"]) for r in made.rows("pairs/train") if r["label"])
    assert set(per_line.values()) == {1}


@pytest.mark.parametrize("split", SPLITS[1:])
def test_no_held_out_negative_shares_a_line_that_has_too_many_words(
    chain, tmp_path, words_of_line, split_of, word, split
):
    made = run_pairs(chain, tmp_path, max_words_per_line=3, subsample=None, heldout_positives=100)
    together = pairs_of_lines(words_of_line, split_of, SPLITS)
    negatives = {named(r, word) for r in made.rows(f"pairs/{split}") if not r["label"]}
    assert sorted(together & negatives) == []


def test_frequent_words_are_left_out_of_pairs_more_often_than_rare_ones(chain, tmp_path):
    def ends(name, **changes):
        rows = run_pairs(chain, tmp_path / name, max_positives=None, **changes).rows("pairs/train")
        return Counter(w for r in rows if r["label"] for w in (r["word_id_a"], r["word_id_b"]))

    every, some = ends("all", subsample=None), ends("some", subsample=0.01)
    frequent, rare = range(5), [w for w in every if w >= 50]
    share = [sum(some[w] for w in words) / sum(every[w] for w in words) for words in (frequent, rare)]
    assert share[0] < share[1] < 1


def test_another_seed_draws_other_pairs(chain, tmp_path):
    one, two = (run_pairs(chain, tmp_path / str(s), max_positives=50, seed=s).rows("pairs/train") for s in (1, 2))
    assert one != two


def test_mode_keep_adds_no_entry(chain, tmp_path, base_folder):
    found = tokenizer_stage.run(
        TokenizerSettings(mode="keep"),
        base=base_folder,
        files=chain.data.files,
        shards=chain.at / "corpus" / "shards.json",
        folders={shard: chain.data.lexed(shard) for shard in chain.data.shards},
        corpus_words=chain.at / "corpus" / "words.parquet",
        english=chain.at / "corpus" / "english.json",
        tokenizer_out=tmp_path / "tokenizer",
        words_out=tmp_path / "words",
        receipts_out=tmp_path / "receipts.json",
    )
    assert found["entries_added"] == 0
    assert found["entries_after"] == found["entries_before"]
    assert found["fertility"]["before"] == found["fertility"]["after"]


def run_words(chain, out, base, **changes):
    settings = WordsSettings(english_words=100, **changes)
    folders = {shard: out / shard for shard in chain.data.shards}
    for shard, folder in folders.items():
        lex_stage.run(settings.of_lines(), base=base, lines=chain.data.lines(shard), out=folder)
    paths = {n: out / n for n in ("words_out", "english_out", "summary_out")}
    read = {"files": chain.data.files, "shards": chain.at / "corpus" / "shards.json"}
    words_stage.run(settings, **read, folders=folders, **paths)
    return set(tables.read(paths["words_out"], tables.CORPUS_WORDS, ["word"])["word"].to_pylist())


def test_words_of_the_whole_text_hold_those_of_comments(chain, tmp_path, base_folder):
    code, every = (run_words(chain, tmp_path / text, base_folder, text=text) for text in ("code", "all"))
    assert "handling" in every - code


def test_words_that_are_too_short_or_too_long_are_left_out(chain, tmp_path, base_folder):
    found = run_words(chain, tmp_path, base_folder, min_chars=4, max_chars=9)
    assert {len(w) for w in found} <= set(range(4, 10))
    assert found


def test_english_words_are_plain_letters_most_common_first():
    found = words_stage.english_words(WordsSettings(english_words=300))
    assert (len(found), found[0]) == (300, "the")
    assert all(re.fullmatch("[a-z]{3,}", w) for w in found)


def test_a_shard_that_is_missing_from_the_gathering_is_told(chain, tmp_path, tree):
    settings = data_case.settings_of(data_case.path_source(tree, shards=3)).corpus.gathering()
    paths = [
        corpus_stage.ShardPaths(chain.data.shard_files(s), chain.at / "shards" / s / "ingest.json")
        for s in chain.data.shards
    ]
    outputs = {n: tmp_path / n for n in ("files_out", "shards_out", "summary_out")}
    with pytest.raises(DataError, match=r"expected 3 shards as in corpus\.sources, found 2"):
        corpus_stage.run(settings, shards=paths[:2], **outputs)
    assert list(tmp_path.iterdir()) == []


def test_tables_of_a_shard_that_are_older_than_the_corpus_are_refused(chain, tmp_path):
    shards = json.loads((chain.at / "corpus" / "shards.json").read_text())
    shards[0]["files"] -= 1
    (tmp_path / "shards.json").write_text(json.dumps(shards))
    with pytest.raises(DataError, match="the files are not those of the corpus"):
        draw_stage.run(
            PairsSettings(),
            files=chain.data.files,
            shards=tmp_path / "shards.json",
            lexed=chain.data.lexed(shards[0]["shard"]),
            words=chain.at / "corpus" / "words.parquet",
            out=tmp_path / "drawn",
        )
    assert not (tmp_path / "drawn").exists()
