import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer

import tiny
from commbert.errors import ModelError
from commbert.settings.tokenizer import TokenizerSettings
from commbert.text.interning import Interning
from commbert.text.words import LineCodes
from commbert.tokenization.encoding import encode_words, is_lower_case, load_tokenizer, pieces_of
from commbert.tokenization.extension import Cut, check_extension, choose_words, receipts, write_tokenizer
from commbert.tokenization.lexing import Lexer

NEW = ["harq", "pdcch", "scheduler", "x2ap"]
LINES = [
    "harq_id = rlc->getHarqID(0x1F, &mac[3]);",
    "",
    "   \t indented\twith tabs ",
    "UPPER lower MiXed 3gpp g3pp",
    "[MASK] [CLS] [SEP] [PAD] [UNK] ##er [mask]",
    "a$b+c<d=e>f^g`h|i~j{k}l!m\"n#o%p'q(r)s*t,u-v.w/x:y;z?A@B\\C]D",
    "café naïve Ünïcödé ﬁ ＡＢＣ",
    "中文字 mixed 日本語",
    "tab\x0bform\x0cfeed\x1cunit\x1f",
    "nul\x00bell\x07del\x7fend",
    "\u2028sep\u2029 nbsp\u00a0x zero\u200bwidth \ufeffbom \u00adsoft",
    "emoji 😀 κόσμος İstanbul ß",
    "x" * 100,
    "x" * 101,
    "_" * 50,
    "word_with_many_parts __dunder__ a__b",
    "\r carriage \n newline",
]
SOURCE = Path(__file__).resolve().parents[2] / "src"
NORMALIZERS = {
    "lower case": {},
    "cased": {"lowercase": False},
    "lower case, accents stay": {"strip_accents": False},
    "cased, accents go": {"lowercase": False, "strip_accents": True},
    "Chinese unparted": {"handle_chinese_chars": False},
    "text not cleaned": {"clean_text": False},
}
WHOLE = (NORMALIZERS["lower case"], NORMALIZERS["cased"])
"""What is looked at in full; of the others, samples."""
FUZZ = [
    *map(chr, range(128)),
    *"éüñÅﬁﬀＡＢΣςßẞİıǅ中文日한글가क्षा",
    *("\u0301", "\u0308", "\u200b", "\u200d", "\u2028", "\u2029", "\u00a0", "\u00ad", "\ufeff", "\u0085", "\ufffd"),
    *("😀", "👩\u200d💻", "𝔸", "𠀀", "\U0010fffd", "\ue000"),
    *("[MASK]", "[SEP]", "[UNK]", "##er", "harq", "pdcch_", "the house", "    ", "\t\t"),
]
LONG_WORDS = [c * n for c in ("a", "Z", "_", "é", "中") for n in (99, 100, 101, 200)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def grown(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown")
    write_tokenizer(base, folder, NEW)
    return folder


def changed_base(base, folder, change):
    """Write a copy of the base tokenizer of which one thing in tokenizer.json is changed."""
    spec = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


def rows_of(values, offsets):
    return [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def line_array(lines):
    return lines if isinstance(lines, pa.Array | pa.ChunkedArray) else pa.array(lines, pa.string())


def encoded_lines(tokenizer, lines):
    lexer = Lexer(tokenizer)
    codes = lexer.lex(line_array(lines))
    return pieces_of(tokenizer, lexer.interning.strings).encode(codes)


def encoded(tokenizer, lines):
    result = encoded_lines(tokenizer, lines)
    return rows_of(result.ids, result.offsets)


def cut(tokenizer, lines):
    """Return the pre-tokens of each line."""
    lexer = Lexer(tokenizer)
    found = lexer.lex(line_array(lines))
    strings = lexer.interning.strings
    return [[strings[c] for c in row] for row in rows_of(found.codes, found.offsets)]


def by_the_tokenizer(tokenizer, lines):
    assert tokenizer.encode_special_tokens
    return [e.ids for e in tokenizer.encode_batch_fast(list(lines), add_special_tokens=False)]


def fuzz_lines(n, seed=17):
    rng = np.random.default_rng(seed)
    kinds = [FUZZ, FUZZ[:128], FUZZ[32:127], [*FUZZ[32:127], *FUZZ[32:127], *FUZZ[32:127], *FUZZ]]
    for i in range(n):
        parts = kinds[i % 4]
        line = "".join(parts[j] for j in rng.integers(0, len(parts), rng.integers(0, 24)))
        yield line + LONG_WORDS[rng.integers(len(LONG_WORDS))] + line[:3] if i % 100 == 7 else line


def source_lines():
    return [line for path in sorted(SOURCE.rglob("*.py")) for line in path.read_text(encoding="utf-8").split("\n")]


def tokenizer_with(base, folder, **changes):
    return load_tokenizer(changed_base(base, folder, lambda spec: spec["normalizer"].update(changes)))


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_the_ids_of_a_line_are_those_of_the_tokenizer(grown, line):
    tokenizer = load_tokenizer(grown)
    assert encoded(tokenizer, [line]) == [tokenizer.encode(line, add_special_tokens=False).ids]


@pytest.mark.parametrize("changes", NORMALIZERS.values(), ids=NORMALIZERS)
def test_the_ids_of_the_projects_own_source_are_those_of_the_tokenizer(grown, tmp_path, changes):
    tokenizer = tokenizer_with(grown, tmp_path, **changes)
    lines = source_lines()
    assert len(lines) > 10_000
    lines = lines if changes in WHOLE else lines[::5]
    assert encoded(tokenizer, lines) == by_the_tokenizer(tokenizer, lines)


@pytest.mark.parametrize("changes", NORMALIZERS.values(), ids=NORMALIZERS)
def test_the_ids_of_random_text_are_those_of_the_tokenizer(grown, tmp_path, changes):
    tokenizer = tokenizer_with(grown, tmp_path, **changes)
    lines = [*fuzz_lines(20_000 if changes in WHOLE else 3000), *LONG_WORDS, *LINES, ""]
    for line, ours, theirs in zip(lines, encoded(tokenizer, lines), by_the_tokenizer(tokenizer, lines), strict=True):
        assert ours == theirs, repr(line)


def test_a_word_of_one_hundred_characters_is_cut_and_a_longer_one_is_unknown(base):
    tokenizer = load_tokenizer(base)
    found = encoded(tokenizer, ["a" * 99, "a" * 100, "a" * 101, "a" * 200])
    assert [len(ids) for ids in found] == [99, 100, 1, 1]
    assert found[2] == found[3] == [tokenizer.token_to_id("[UNK]")]


def test_a_cased_tokenizer_keeps_its_case(base, tmp_path):
    tokenizer = tokenizer_with(base, tmp_path, lowercase=False)
    assert not is_lower_case(tokenizer)
    assert is_lower_case(load_tokenizer(base))
    assert cut(tokenizer, ["def Def X1"]) == [["def", "Def", "X1"]]


@pytest.mark.parametrize("at", [0, 1, 7, 399])
def test_a_slice_of_lines_is_read_from_its_offset(base, at):
    tokenizer = load_tokenizer(base)
    lines = [*fuzz_lines(400)]
    whole = by_the_tokenizer(tokenizer, lines)
    for kind in (pa.string(), pa.large_string()):
        assert encoded(tokenizer, pa.array(lines, kind).slice(at, 150)) == whole[at : at + 150]


@pytest.mark.parametrize("bounds", [(0, 400), (0, 1, 2, 2, 399, 400), (3, 50, 51, 200)])
def test_lines_in_several_chunks_are_one_column(base, bounds):
    tokenizer = load_tokenizer(base)
    lines = [*fuzz_lines(400)]
    array = pa.array(lines, pa.string())
    chunked = pa.chunked_array([array.slice(a, b - a) for a, b in itertools.pairwise(bounds)], pa.string())
    assert encoded(tokenizer, chunked) == by_the_tokenizer(tokenizer, lines[bounds[0] : bounds[-1]])


@pytest.mark.parametrize("lines", [[], [""], ["", "", ""], [" \t "], ["", "\u200b", ""], ["a"], ["\x00"]])
def test_lines_of_nothing_have_no_ids_and_keep_their_places(base, lines):
    tokenizer = load_tokenizer(base)
    assert encoded(tokenizer, lines) == by_the_tokenizer(tokenizer, lines)
    assert encoded(tokenizer, pa.chunked_array([], pa.string())) == []


def test_pretokens_have_one_number_in_every_piece(base):
    tokenizer = load_tokenizer(base)
    lines = [*fuzz_lines(600)]
    lexer = Lexer(tokenizer)
    pieces = [lexer.lex(pa.array(lines[at : at + 100], pa.string())) for at in range(0, 600, 100)]
    ids = pieces_of(tokenizer, lexer.interning.strings)
    parts = [ids.encode(piece) for piece in pieces]
    found = [row for part in parts for row in rows_of(part.ids, part.offsets)]
    assert found == by_the_tokenizer(tokenizer, lines)
    assert len(set(lexer.interning.strings)) == len(lexer.interning.strings)


def test_the_ids_of_joined_lines_are_those_of_the_lines_end_to_end(base):
    # What makes a window a slice of its file's tokens.
    tokenizer = load_tokenizer(base)
    lines = [*source_lines()[:3000], *fuzz_lines(1000)]
    result = encoded_lines(tokenizer, lines)
    rng = np.random.default_rng(3)
    for first in rng.integers(0, len(lines) - 7, 400):
        text = "\n".join(lines[first : first + 7])
        ids = result.ids[result.offsets[first] : result.offsets[first + 7]].tolist()
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids, repr(text)


def test_a_mask_token_in_the_text_is_six_characters_and_no_token(base):
    tokenizer = load_tokenizer(base)
    ids = encoded(tokenizer, ["[MASK]"])[0]
    assert tokenizer.token_to_id("[MASK]") not in ids
    assert [tokenizer.id_to_token(i) for i in ids] == ["[", "m", "##a", "##s", "##k", "]"]


def test_no_lines_give_no_ids(base):
    result = encoded_lines(load_tokenizer(base), [])
    assert (result.ids.tolist(), result.offsets.tolist()) == ([], [0])
    assert (result.ids.dtype, result.offsets.dtype) == (np.int32, np.int64)


def test_ids_of_pretokens_are_laid_end_to_end_by_hand(base):
    tokenizer = load_tokenizer(base)
    pieces = pieces_of(tokenizer, ["the", "", "ab", "="])
    the, a, b, equals = (tokenizer.token_to_id(t) for t in ("the", "a", "##b", "="))
    assert (pieces.ids.tolist(), pieces.offsets.tolist()) == ([the, a, b, equals], [0, 1, 1, 3, 4])
    lines = pieces.encode(LineCodes(np.array([3, 2, 1, 0, 0], np.uint32), np.array([0, 2, 2, 3, 5])))
    assert (lines.ids.tolist(), lines.offsets.tolist()) == ([equals, a, b, the, the], [0, 3, 3, 3, 5])


def test_a_loaded_tokenizer_cuts_and_fills_nothing(base):
    # The base carries truncation to 16 and padding to 16.
    assert Tokenizer.from_file(str(base / "tokenizer.json")).encode("a").ids[-1] == 0
    tokenizer = load_tokenizer(base)
    assert len(tokenizer.encode("a " * 500, add_special_tokens=False).ids) == 500
    assert len(tokenizer.encode("a", add_special_tokens=False).ids) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a_b->C3 = 1;", ["a", "_", "b", "-", ">", "c3", "=", "1", ";"]),
        ("a\tb", ["a", "b"]),
        ("", []),
        ("É中b", ["e", "中", "b"]),
        ("a\x00b", ["ab"]),
    ],
)
def test_pretokens_are_runs_of_letters_and_digits_and_single_signs(base, line, expected):
    assert cut(load_tokenizer(base), [line, "x", line]) == [expected, ["x"], expected]


def test_a_run_of_letters_ends_with_its_line(base):
    assert cut(load_tokenizer(base), ["ab", "cd", "", "ef"]) == [["ab"], ["cd"], [], ["ef"]]


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 1}', "[]", "\xff"])
def test_a_folder_without_a_tokenizer_is_a_model_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError, match=r"tokenizer\.json: expected a BERT tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("part", ["model", "normalizer", "pre_tokenizer"])
def test_a_tokenizer_of_another_kind_is_refused(base, tmp_path, part):
    folder = changed_base(base, tmp_path, lambda spec: spec[part].update(type="Other"))
    with pytest.raises(ModelError, match=r"expected WordPiece, BertNormalizer, BertPreTokenizer, found .*Other"):
        load_tokenizer(folder)


def test_a_tokenizer_that_its_library_cannot_read_is_a_model_error(base, tmp_path):
    folder = changed_base(base, tmp_path, lambda spec: spec["model"].update(vocab="none"))
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(folder)


def test_every_new_word_is_one_token(grown):
    n = len(tiny.vocabulary())
    assert encode_words(load_tokenizer(grown), NEW) == [[n], [n + 1], [n + 2], [n + 3]]


def test_old_entries_keep_their_ids(base, grown):
    before, after = load_tokenizer(base).get_vocab(), load_tokenizer(grown).get_vocab()
    assert {word: after[word] for word in before} == before
    assert len(after) == len(before) + len(NEW)


def test_special_tokens_keep_their_ids_and_stay_special(grown):
    tokenizer = Tokenizer.from_file(str(grown / "tokenizer.json"))
    assert tokenizer.encode("[MASK]").ids == [2, 4, 3]
    assert [tokenizer.token_to_id(t) for t in tiny.SPECIALS] == [0, 1, 2, 3, 4]


def test_truncation_and_padding_of_the_base_are_taken_off(grown):
    tokenizer = Tokenizer.from_file(str(grown / "tokenizer.json"))
    assert (tokenizer.truncation, tokenizer.padding) == (None, None)
    assert len(tokenizer.encode("a " * 100).ids) == 102


def test_vocab_txt_says_what_tokenizer_json_says(grown):
    rows = (grown / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = json.loads((grown / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert {word: i for i, word in enumerate(rows)} == vocabulary


@pytest.mark.slow
def test_transformers_in_a_fresh_process_gives_the_same_ids(grown):
    code = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
print(json.dumps([tokenizer(texts)["input_ids"], tokenizer.mask_token_id, tokenizer.model_max_length, len(tokenizer)]))
"""
    texts = ["harq_id = pdcch;", "SCHEDULER x2ap café", "[MASK] of the house", "a " * 60]
    done = subprocess.run(
        [sys.executable, "-c", code, str(grown), json.dumps(texts)], capture_output=True, text=True, check=True
    )
    ids, mask, longest, size = json.loads(done.stdout.splitlines()[-1])
    in_memory = Tokenizer.from_file(str(grown / "tokenizer.json"))
    assert ids == [in_memory.encode(text).ids for text in texts]
    assert (mask, longest, size) == (4, 512, len(tiny.vocabulary()) + len(NEW))


def test_no_words_leave_the_vocabulary_as_it_is(base, tmp_path):
    write_tokenizer(base, tmp_path, [])
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(base).get_vocab()


def test_a_word_that_is_an_entry_already_is_refused(base, tmp_path):
    with pytest.raises(ModelError, match="'water' is already an entry"):
        write_tokenizer(base, tmp_path, ["harq", "water"])


def test_a_word_given_twice_is_refused(base, tmp_path):
    with pytest.raises(ModelError, match="'harq' is already an entry"):
        write_tokenizer(base, tmp_path, ["harq", "harq"])


def test_a_vocabulary_with_gaps_is_refused(base, tmp_path):
    folder = changed_base(base, tmp_path, lambda spec: spec["model"]["vocab"].pop("water"))
    with pytest.raises(ModelError, match="expected ids without gaps"):
        write_tokenizer(folder, tmp_path, ["harq"])


def test_the_gate_finds_an_entry_with_an_underscore(base, tmp_path):
    write_tokenizer(base, tmp_path, ["harq", "harq_id"])
    with pytest.raises(ModelError, match="1 new entries can never match, 'harq_id' first"):
        check_extension(load_tokenizer(base), load_tokenizer(tmp_path), ["harq", "harq_id"])


def test_the_gate_finds_an_entry_in_upper_case(base, tmp_path):
    write_tokenizer(base, tmp_path, ["HARQ"])
    with pytest.raises(ModelError, match="1 new entries can never match, 'HARQ' first"):
        check_extension(load_tokenizer(base), load_tokenizer(tmp_path), ["HARQ"])


def test_the_gate_finds_old_entries_that_moved(base, tmp_path):
    # The base has a token outside of its vocabulary, whose id the first new word takes.
    with_added = tmp_path / "base"
    with_added.mkdir()
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("[EXTRA]", special=True)])
    tokenizer.save(str(with_added / "tokenizer.json"))
    write_tokenizer(with_added, tmp_path, ["harq"])
    with pytest.raises(ModelError, match="old entries changed their ids"):
        check_extension(load_tokenizer(with_added), load_tokenizer(tmp_path), ["harq"])


def test_an_undamaged_extension_passes_the_gate(base, grown):
    check_extension(load_tokenizer(base), load_tokenizer(grown), NEW)


def cut_of(before, after, counts):
    interning = Interning()
    interning.codes_of(counts["word"].to_list())
    return Cut(interning, *(pieces_of(tokenizer, interning.strings) for tokenizer in (before, after)))


def counted(counts, n_files=None, heldout=None):
    """Return counts as total_counts gives them, in no order."""
    words = sorted({*counts, *(heldout or {})}, reverse=True)
    n_files = n_files or dict.fromkeys(words, 9)
    columns = {"word": words, "n": [counts.get(w, 0) for w in words], "n_files": [n_files.get(w, 0) for w in words]}
    kinds = {"word": pl.String, "n": pl.UInt64, "n_files": pl.UInt32, "n_heldout": pl.UInt64}
    return pl.DataFrame({**columns, "n_heldout": [(heldout or {}).get(w, 0) for w in words]}, schema=kinds)


def chosen(base, counts, n_files=None, **changes):
    settings = TokenizerSettings(**{"min_count": 1, "min_files": 1, **changes})
    return choose_words(load_tokenizer(base), counted(counts, n_files), settings)


def test_words_are_chosen_by_the_tokens_that_they_save_then_by_the_alphabet(base):
    # Pieces are letters here: rlc 3, pdcch 5, harq 4; savings 2 x 10, 4 x 5, 3 x 7.
    assert chosen(base, {"rlc": 10, "pdcch": 5, "harq": 7}) == ["harq", "pdcch", "rlc"]


def test_no_more_words_are_chosen_than_asked_for(base):
    assert chosen(base, {"rlc": 10, "pdcch": 5, "harq": 7}, max_new_words=2) == ["harq", "pdcch"]


def test_a_word_that_is_one_token_already_is_not_chosen(base):
    assert chosen(base, {"water": 1000, "rlc": 1}) == ["rlc"]


@pytest.mark.parametrize("word", ["harq_id", "_", "12345", "->", "é", "##harq", "[MASK]", "a b c"])
def test_only_runs_of_letters_and_digits_with_a_letter_are_ever_chosen(base, word):
    assert chosen(base, {word: 1000, "rlc": 1}) == ["rlc"]


@pytest.mark.parametrize(
    ("setting", "value", "kept"),
    [("min_count", 5, ["pdcch"]), ("min_files", 3, ["pdcch"]), ("min_chars", 4, ["pdcch"]), ("max_chars", 3, ["rlc"])],
)
def test_words_beyond_a_bound_are_not_chosen(base, setting, value, kept):
    assert chosen(base, {"rlc": 4, "pdcch": 5}, {"rlc": 2, "pdcch": 3}, **{setting: value}) == kept


def test_words_that_save_equally_much_are_chosen_by_the_alphabet(base):
    assert chosen(base, {"zzz": 5, "mmm": 5, "bbb": 5}) == ["bbb", "mmm", "zzz"]


def test_no_counts_choose_no_words(base):
    assert chosen(base, {}) == []


def test_the_receipts_are_the_numbers_made_by_hand(base, tmp_path):
    write_tokenizer(base, tmp_path, ["harq", "rlc"])
    counts = counted({"harq": 3, "water": 1}, heldout={"harq": 2, "water": 1, "ue": 1, "=": 7, "12": 4})
    before, after = load_tokenizer(base), load_tokenizer(tmp_path)
    cut = cut_of(before, after, counts)
    found = receipts(before, after, cut, new_words=["harq", "rlc"], counts=counts, english=["water", "harq"])
    n = len(tiny.vocabulary())
    # Held-out words: harq twice, water once, ue once (signs and numbers are no words).
    assert found["heldout_words"] == 4
    # Before: harq 4 pieces, water 1, ue 2: (2 x 4 + 1 + 2) / 4; one token: water only.
    assert found["fertility"]["before"] == {"tokens_per_word": 2.75, "one_token_words_pct": 25.0}
    # After: harq 1, water 1, ue 2: (2 + 1 + 2) / 4; one token: harq twice, water.
    assert found["fertility"]["after"] == {"tokens_per_word": 1.25, "one_token_words_pct": 75.0}
    assert (found["entries_before"], found["entries_after"], found["entries_added"]) == (n, n + 2, 2)
    assert found["entries_added_seen_in_heldout_pct"] == 50.0  # harq, not rlc
    assert found["new_rows_never_trained"] == 1  # rlc
    assert found["old_rows_never_trained"] == n - 1  # all but water
    assert (found["english_words_checked"], found["english_words_recut"]) == (2, 1)
    assert found["english_words_recut_examples"] == ["harq: h ##a ##r ##q -> harq"]


def test_receipts_of_an_empty_heldout_split_are_zero(base):
    tokenizer = load_tokenizer(base)
    cut = cut_of(tokenizer, tokenizer, counted({}))
    found = receipts(tokenizer, tokenizer, cut, new_words=[], counts=counted({}), english=[])
    assert found["fertility"]["before"] == {"tokens_per_word": 0.0, "one_token_words_pct": 0.0}


def test_a_tokenizer_with_added_words_is_refused_for_they_match_before_wordpiece(tmp_path):
    tiny.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["harq_id"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="'harq_id' first"):
        load_tokenizer(tmp_path)
