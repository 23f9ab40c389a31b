import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

import tiny
from commbert.errors import ModelError
from commbert.settings.tokenizer import TokenizerSettings
from commbert.tokenization.encoding import encode_lines, encode_words, is_lower_case, load_tokenizer, pretokens
from commbert.tokenization.extension import check_extension, choose_words, count_pretokens, receipts, write_tokenizer

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


def encoded(tokenizer, lines):
    result = encode_lines(tokenizer, lines)
    bounds = zip(result.offsets[:-1], result.offsets[1:], strict=True)
    return [result.ids[a:b].tolist() for a, b in bounds]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_encode_lines_equals_the_tokenizer(grown, line):
    tokenizer = load_tokenizer(grown)
    assert encoded(tokenizer, [line]) == [tokenizer.encode(line, add_special_tokens=False).ids]


def test_encode_lines_equals_the_tokenizer_on_random_text(grown):
    tokenizer = load_tokenizer(grown)
    rng = np.random.default_rng(17)
    alphabet = [*map(chr, range(1, 0x180)), "\u200d", "\u0301", "中", "😀", "[MASK]", "harq", "pdcch_", "  ", "##er"]
    lines = ["".join(rng.choice(alphabet, rng.integers(0, 30))) for _ in range(400)]
    ascii_only = ["".join(map(chr, rng.integers(9, 127, rng.integers(0, 40)))) for _ in range(400)]
    for line, ids in zip(lines + ascii_only, encoded(tokenizer, lines + ascii_only), strict=True):
        assert ids == tokenizer.encode(line, add_special_tokens=False).ids, repr(line)


def test_encode_lines_keeps_case_where_the_tokenizer_does(base, tmp_path):
    folder = changed_base(base, tmp_path, lambda spec: spec["normalizer"].update(lowercase=False))
    tokenizer = load_tokenizer(folder)
    assert not is_lower_case(tokenizer)
    line = "def Def the THE"
    assert encoded(tokenizer, [line]) == [tokenizer.encode(line, add_special_tokens=False).ids]


def test_a_mask_token_in_the_text_is_six_characters_and_no_token(base):
    tokenizer = load_tokenizer(base)
    ids = encoded(tokenizer, ["[MASK]"])[0]
    assert tokenizer.token_to_id("[MASK]") not in ids
    assert [tokenizer.id_to_token(i) for i in ids] == ["[", "m", "##a", "##s", "##k", "]"]


def test_no_lines_give_no_ids(base):
    result = encode_lines(load_tokenizer(base), [])
    assert (result.ids.tolist(), result.offsets.tolist()) == ([], [0])


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
        ("é", None),
        ("a\x00", None),
    ],
)
def test_pretokens_are_runs_of_letters_and_digits_and_single_signs(line, expected):
    assert pretokens(line, lower=True) == expected


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


def chosen(base, counts, n_files=None, **changes):
    settings = TokenizerSettings(**{"min_count": 1, "min_files": 1, **changes})
    return choose_words(load_tokenizer(base), Counter(counts), Counter(n_files or dict.fromkeys(counts, 9)), settings)


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


def test_pretokens_are_counted_by_occurrence_and_by_file():
    counts, n_files = count_pretokens([(0, "harq_id harq"), (0, "harq"), (3, "HARQ = 1")], lower=True)
    assert (counts["harq"], n_files["harq"]) == (4, 2)
    assert (counts["id"], n_files["id"], counts["="]) == (1, 1, 1)


def test_words_of_a_line_with_an_accent_are_counted_too():
    counts, _ = count_pretokens([(0, "harq # café"), (0, "rlc")], lower=True)
    assert counts["harq"] == 1


def test_the_receipts_are_the_numbers_made_by_hand(base, tmp_path):
    write_tokenizer(base, tmp_path, ["harq", "rlc"])
    found = receipts(
        load_tokenizer(base),
        load_tokenizer(tmp_path),
        new_words=["harq", "rlc"],
        counts=Counter({"harq": 3, "water": 1}),
        heldout_counts=Counter({"harq": 2, "water": 1, "ue": 1, "=": 7, "12": 4}),
        english=["water", "harq"],
    )
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
    found = receipts(tokenizer, tokenizer, new_words=[], counts=Counter(), heldout_counts=Counter(), english=[])
    assert found["fertility"]["before"] == {"tokens_per_word": 0.0, "one_token_words_pct": 0.0}
