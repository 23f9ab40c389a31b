import json
import re
from collections import Counter, defaultdict
from itertools import combinations, pairwise

import pytest
from tokenizers import Tokenizer

from commbert import tables
from commbert.artifacts import verify_folder
from commbert.known import read_known
from commbert.settings.pairs import PairsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings
from commbert.stages import pairs as pairs_stage
from commbert.stages import tokenizer as tokenizer_stage
from commbert.stages import windows as windows_stage
from commbert.stages import words as words_stage
from commbert.text.languages import KEYWORDS

SPLITS = ("train", "validation", "test")
SCHEMAS = {
    "files": tables.FILES,
    "lines": tables.LINES,
    "corpus_words": tables.CORPUS_WORDS,
    "line_words": tables.LINE_WORDS,
    "words": tables.WORDS,
    "known": tables.KNOWN_PAIRS,
    **{f"windows_{s}": tables.WINDOWS for s in SPLITS},
    **{f"pairs_{s}": tables.PAIRS for s in SPLITS},
}


def rows(chain, name):
    return tables.read(getattr(chain, name), SCHEMAS[name]).to_pylist()


def summary(chain, name):
    return json.loads((chain.out / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def split_of(chain):
    return {row["file_id"]: row["split"] for row in rows(chain, "files")}


@pytest.fixture(scope="module")
def words_of_line(chain):
    """Map (file, line) to the words of its code, found with the standard library."""
    return {
        (row["file_id"], row["line_no"]): set(re.findall(r"\b[a-z_][a-z0-9_]+\b", row["code"].lower(), re.ASCII))
        for row in rows(chain, "lines")
    }


@pytest.fixture(scope="module")
def word(chain):
    return [row["word"] for row in rows(chain, "words")]


def pairs_of_lines(words_of_line, split_of, splits):
    return {
        tuple(sorted(pair))
        for (file_id, _), words in words_of_line.items()
        if split_of[file_id] in splits
        for pair in combinations(words, 2)
    }


def test_every_table_has_its_schema_and_rows(chain):
    for name, table in SCHEMAS.items():
        read = tables.read(getattr(chain, name), table)
        assert read.schema == table.schema
        assert read.num_rows > 0, name


def test_another_hash_seed_gives_the_same_bytes_of_every_file(chains):
    one, two = ({p.relative_to(c.out): p.read_bytes() for p in c.out.rglob("*") if p.is_file()} for c in chains)
    assert len(one) == len(SCHEMAS) + 6 + 5
    assert [str(path) for path in one if one[path] != two.get(path)] == []


def test_nothing_half_written_is_left(chain):
    assert [p.name for p in chain.out.rglob(".*")] == []


def test_files_come_sorted_with_every_file_of_the_tree_once(chain):
    expected = sorted(p.relative_to(chain.tree).as_posix() for p in chain.tree.rglob("*") if p.is_file())
    assert [row["path"] for row in rows(chain, "files")] == expected


def test_dropped_files_say_why_and_have_no_split_and_no_lines(chain):
    dropped = {row["path"]: row for row in rows(chain, "files") if not row["kept"]}
    assert {path: row["reason"] for path, row in dropped.items()} == {
        "part0/twin.py": "duplicate of tree:part0/module0.py",
        "part1/notes.md": "not included",
        "part2/data.py": "binary",
    }
    assert {row["split"] for row in dropped.values()} == {""}
    assert not {row["file_id"] for row in dropped.values()} & {row["file_id"] for row in rows(chain, "lines")}


def test_the_accounting_of_the_stage_adds_up_to_the_tree(chain):
    files = [p for p in chain.tree.rglob("*") if p.is_file()]
    account = summary(chain, "ingest")["accounting"].values()
    assert sum(row["files"] for row in account) == len(files)
    assert sum(row["bytes"] for row in account) == sum(p.stat().st_size for p in files)
    n_lines = sum(p.read_bytes().count(b"\n") for p in files if p.suffix == ".py")
    assert sum(row["lines"] for row in account) == n_lines


def test_each_directory_stands_in_one_split(chain):
    of = defaultdict(set)
    for row in rows(chain, "files"):
        if row["kept"]:
            of[row["path"].split("/")[0]].add(row["split"])
    assert sorted(Counter(min(s) for s in of.values()).items()) == [("test", 1), ("train", 4), ("validation", 1)]
    assert all(len(s) == 1 for s in of.values())


def test_the_lines_are_those_of_the_files(chain):
    path_of = {row["file_id"]: row["path"] for row in rows(chain, "files")}
    for row in rows(chain, "lines"):
        raw = (chain.tree / path_of[row["file_id"]]).read_text(encoding="utf-8").split("\n")[row["line_no"] - 1]
        assert row["text"] == raw.strip() != ""
        assert row["code"] == ("" if row["line_no"] <= 2 else raw.split("#")[0].strip())


def test_the_counts_of_words_are_of_the_training_split_only(chain, split_of, words_of_line):
    n_lines, files = Counter(), defaultdict(set)
    for (file_id, _), words in words_of_line.items():
        if split_of[file_id] == "train":
            n_lines.update(words)
            for w in words:
                files[w].add(file_id)
    found = rows(chain, "corpus_words")
    assert {r["word"]: (r["n_lines"], r["n_files"]) for r in found} == {
        w: (n_lines[w], len(files[w])) for w in set().union(*words_of_line.values())
    }
    assert any(r["n_lines"] == 0 for r in found)


def test_words_are_numbered_by_count_then_alphabet(chain):
    found = rows(chain, "corpus_words")
    assert [r["word_id"] for r in found] == list(range(len(found)))
    assert [r["word"] for r in found] == [r["word"] for r in sorted(found, key=lambda r: (-r["n_lines"], r["word"]))]


def test_the_words_of_a_line_are_those_of_its_code(chain, words_of_line):
    word = [row["word"] for row in rows(chain, "corpus_words")]
    found = {(r["file_id"], r["line_no"]): {word[i] for i in r["word_ids"]} for r in rows(chain, "line_words")}
    assert found == {at: words for at, words in words_of_line.items() if len(words) >= 2}


def test_new_entries_are_frequent_in_training_files_alone(chain, split_of):
    counts, files = Counter(), defaultdict(set)
    for row in rows(chain, "lines"):
        if split_of[row["file_id"]] == "train":
            for part in re.findall("[a-z0-9]+", row["text"].lower()):
                counts[part] += 1
                files[part].add(row["file_id"])
    new = json.loads((chain.out / "tokenizer" / "new_words.json").read_text(encoding="utf-8"))
    assert len([w for w in new if re.fullmatch("only[a-f]zz", w)]) == 4  # one for each training directory
    assert all(counts[w] >= 3 and len(files[w]) >= 2 for w in new)


def test_the_tokenizer_folder_is_whole(chain):
    manifest = verify_folder(chain.out / "tokenizer")
    assert sorted(manifest["files"]) == ["new_words.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def test_each_word_carries_its_token_ids_and_its_pieces_before(chain):
    after = Tokenizer.from_file(str(chain.out / "tokenizer" / "tokenizer.json"))
    before = Tokenizer.from_file(str(chain.base / "tokenizer.json"))
    before.no_padding()
    before.no_truncation()
    for row in rows(chain, "words"):
        assert row["token_ids"] == after.encode(row["word"], add_special_tokens=False).ids
        assert row["n_pieces_before"] == len(before.encode(row["word"], add_special_tokens=False).ids)


def test_english_words_follow_the_words_of_the_code_without_repeating_them(chain):
    found = rows(chain, "words")
    code = [r["word"] for r in rows(chain, "corpus_words")]
    english = json.loads((chain.out / "english.json").read_text(encoding="utf-8"))
    assert [r["word"] for r in found] == code + [w for w in english if w not in set(code)]
    assert len({r["word"] for r in found}) == len(found)
    assert all(r["in_code"] == (r["word_id"] < len(code)) for r in found)
    assert all(r["in_english"] == (r["word"] in english) for r in found)


@pytest.mark.parametrize("split", SPLITS)
def test_a_window_holds_the_tokens_of_its_lines_in_the_file(chain, split_of, split):
    tokenizer = Tokenizer.from_file(str(chain.out / "tokenizer" / "tokenizer.json"))
    lines = defaultdict(dict)
    for row in rows(chain, "lines"):
        lines[row["file_id"]][row["line_no"]] = row["text"]
    for row in rows(chain, f"windows_{split}"):
        assert split_of[row["file_id"]] == split
        own = [text for n, text in lines[row["file_id"]].items() if row["first_line"] <= n <= row["last_line"]]
        expected = tokenizer.encode("\n".join(own), add_special_tokens=False).ids
        assert row["input_ids"] == expected[:46]
        assert row["n_tokens"] == len(row["input_ids"]) <= 46


def test_every_training_line_is_the_centre_of_one_window(chain, split_of):
    lines = [(r["file_id"], r["line_no"]) for r in rows(chain, "lines") if split_of[r["file_id"]] == "train"]
    assert [(r["file_id"], r["line_no"]) for r in rows(chain, "windows_train")] == lines


@pytest.mark.parametrize("split", SPLITS[1:])
def test_no_line_stands_in_two_held_out_windows(chain, split):
    found = rows(chain, f"windows_{split}")
    assert all(a["file_id"] != b["file_id"] or a["last_line"] < b["first_line"] for a, b in pairwise(found))


def test_the_leak_of_lines_is_the_one_counted_by_hand(chain, split_of):
    text = defaultdict(list)
    for row in rows(chain, "lines"):
        text[split_of[row["file_id"]]].append(row["text"])
    for split in SPLITS[1:]:
        seen = [t in set(text["train"]) for t in text[split]]
        found = summary(chain, "windows")["leakage"][split]["lines_seen_in_training_pct"]
        assert found == pytest.approx(100 * sum(seen) / len(seen))


def run_windows(chain, out, **changes):
    out.mkdir()
    windows_stage.run(
        WindowsSettings(**{"max_length": 48, **changes}),
        files=chain.files,
        lines=chain.lines,
        tokenizer=chain.out / "tokenizer",
        out={s: out / s for s in SPLITS},
        summary_out=out / "summary.json",
    )
    read = tables.read(out / "train", tables.WINDOWS, ["file_id", "line_no"]).to_pylist()
    return [(row["file_id"], row["line_no"]) for row in read]


def test_a_limit_draws_that_many_windows_over_all_files_in_order(chain, tmp_path):
    every = run_windows(chain, tmp_path / "all")
    drawn = run_windows(chain, tmp_path / "some", max_windows=60)
    assert (len(drawn), drawn) == (60, sorted(drawn))
    assert set(drawn) <= set(every)
    assert len({file_id for file_id, _ in drawn}) == len({file_id for file_id, _ in every})


def test_the_draw_of_windows_follows_its_seed_alone(chain, tmp_path):
    one = run_windows(chain, tmp_path / "a", max_windows=60)
    assert one == run_windows(chain, tmp_path / "b", max_windows=60)
    assert one != run_windows(chain, tmp_path / "c", max_windows=60, seed=18)


def test_a_limit_of_windows_leaves_the_held_out_splits_alone(chain, tmp_path):
    run_windows(chain, tmp_path / "some", max_windows=5)
    for split in SPLITS[1:]:
        drawn = tables.read(tmp_path / "some" / split, tables.WINDOWS)
        assert drawn.equals(tables.read(getattr(chain, f"windows_{split}"), tables.WINDOWS))


def test_known_pairs_are_the_pairs_of_training_lines_and_no_others(chain, split_of, words_of_line, word):
    keys = read_known(chain.known)
    found = {tuple(sorted((word[int(k) >> 32], word[int(k) & 0xFFFFFFFF]))) for k in keys}
    assert found == pairs_of_lines(words_of_line, split_of, ["train"])


@pytest.mark.parametrize("split", SPLITS)
def test_the_words_of_a_positive_stand_on_its_line_in_its_split(chain, split_of, words_of_line, word, split):
    for row in rows(chain, f"pairs_{split}"):
        assert split_of[row["file_id"]] == split
        if row["label"]:
            assert row["kind"] == "same_line"
            assert {word[row["word_id_a"]], word[row["word_id_b"]]} <= words_of_line[row["file_id"], row["line_no"]]


@pytest.mark.parametrize("split", SPLITS)
def test_each_positive_is_followed_by_its_negatives_with_its_anchor_and_line(chain, split):
    last = None
    for row in rows(chain, f"pairs_{split}"):
        if row["label"]:
            last, kinds = row, []
            continue
        assert [row[k] for k in ("word_id_a", "file_id", "line_no")] == [
            last[k] for k in ("word_id_a", "file_id", "line_no")
        ]
        assert row["kind"] not in kinds
        kinds.append(row["kind"])


def test_an_english_negative_of_training_is_english_and_shares_no_training_line(chain, split_of, words_of_line, word):
    together = pairs_of_lines(words_of_line, split_of, ["train"])
    in_english = [row["in_english"] for row in rows(chain, "words")]
    negatives = [row for row in rows(chain, "pairs_train") if not row["label"]]
    assert {row["kind"] for row in negatives} == {"english"}
    assert all(in_english[row["word_id_b"]] for row in negatives)
    assert not together & {tuple(sorted((word[r["word_id_a"]], word[r["word_id_b"]]))) for r in negatives}


@pytest.mark.parametrize("split", SPLITS[1:])
def test_a_held_out_negative_shares_no_line_anywhere(chain, split_of, words_of_line, word, split):
    together = pairs_of_lines(words_of_line, split_of, SPLITS)
    negatives = [row for row in rows(chain, f"pairs_{split}") if not row["label"]]
    assert {row["kind"] for row in negatives} == {"english", "random_code", "frequency_matched"}
    assert not together & {tuple(sorted((word[r["word_id_a"]], word[r["word_id_b"]]))) for r in negatives}


@pytest.mark.parametrize("split", SPLITS[1:])
def test_no_held_out_positive_comes_twice(chain, split):
    pairs = [tuple(sorted((r["word_id_a"], r["word_id_b"]))) for r in rows(chain, f"pairs_{split}") if r["label"]]
    assert len(set(pairs)) == len(pairs) == 100


@pytest.mark.parametrize("split", SPLITS[1:])
def test_the_leak_of_pairs_is_the_share_of_known_positives(chain, split_of, words_of_line, word, split):
    known = pairs_of_lines(words_of_line, split_of, ["train"])
    pairs = [
        tuple(sorted((word[r["word_id_a"]], word[r["word_id_b"]]))) for r in rows(chain, f"pairs_{split}") if r["label"]
    ]
    expected = 100 * sum(p in known for p in pairs) / len(pairs)
    assert summary(chain, "pairs")["leakage"][split]["pairs_seen_in_training_pct"] == pytest.approx(expected)


def run_pairs(chain, out, **changes):
    out.mkdir()
    pairs_stage.run(
        PairsSettings(**changes),
        files=chain.files,
        line_words=chain.line_words,
        words=chain.words,
        out={s: out / s for s in SPLITS},
        known_out=out / "known",
        summary_out=out / "summary.json",
    )
    return [tables.read(out / s, tables.PAIRS).to_pylist() for s in SPLITS]


def test_keywords_stand_in_pairs_only_where_the_setting_keeps_them(chain, tmp_path, word):
    def used(split_rows):
        return {word[r[c]] for rs in split_rows for r in rs for c in ("word_id_a", "word_id_b")}

    assert not used(run_pairs(chain, tmp_path / "without")) & KEYWORDS
    assert used(run_pairs(chain, tmp_path / "with", drop_keywords=False, english_negatives=4)) & KEYWORDS


def test_all_positives_are_kept_where_nothing_limits_them(chain, tmp_path, split_of, words_of_line):
    train, _, _ = run_pairs(chain, tmp_path / "p", max_positives=None, subsample=None, drop_keywords=False)
    n = sum(len(w) * (len(w) - 1) // 2 for (f, _), w in words_of_line.items() if split_of[f] == "train")
    assert sum(r["label"] for r in train) == n


def test_the_limit_of_positives_is_kept_and_every_one_gets_its_negatives(chain, tmp_path):
    train, _, _ = run_pairs(chain, tmp_path / "p", max_positives=50, subsample=None, english_negatives=3)
    assert Counter(r["label"] for r in train) == {1: 50, 0: 150}


def test_mode_keep_adds_no_entry(chain, tmp_path):
    found = tokenizer_stage.run(
        TokenizerSettings(mode="keep"),
        base=chain.base,
        files=chain.files,
        lines=chain.lines,
        corpus_words=chain.corpus_words,
        english=chain.out / "english.json",
        tokenizer_out=tmp_path / "tokenizer",
        words_out=tmp_path / "words",
        receipts_out=tmp_path / "receipts.json",
    )
    assert found["entries_added"] == 0
    assert found["entries_after"] == found["entries_before"]
    assert found["fertility"]["before"] == found["fertility"]["after"]


def test_words_of_the_whole_text_hold_those_of_comments(chain, tmp_path):
    def words(text):
        paths = {n: tmp_path / f"{text}_{n}" for n in ("words_out", "line_words_out", "english_out", "summary_out")}
        words_stage.run(WordsSettings(text=text, english_words=100), files=chain.files, lines=chain.lines, **paths)
        return set(tables.read(paths["words_out"], tables.CORPUS_WORDS, ["word"])["word"].to_pylist())

    assert "handling" in words("all") - words("code")


def test_english_words_are_plain_letters_most_common_first():
    found = words_stage.english_words(WordsSettings(english_words=300))
    assert (len(found), found[0]) == (300, "the")
    assert all(re.fullmatch("[a-z]{3,}", w) for w in found)


def test_the_summary_lists_each_directory_under_one_split(chain):
    directories = [d for split in summary(chain, "ingest")["splits"].values() for d in split["directories"]]
    assert sorted(directories) == [f"part{d}" for d in range(6)]
