"""A vocabulary learnt from counts: what it holds, that counts alone decide it, and that other readers load it."""

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from transformers import AutoTokenizer, BertTokenizerFast

from commbert.errors import DataError, SettingsError
from commbert.settings.tokenizer import TokenizerSettings
from commbert.tokenization.encoding import load_tokenizer, pieces_of
from commbert.tokenization.lexing import Lexer
from commbert.tokenization.vocabulary import (
    SPECIALS,
    _repeated,
    bert_cutter,
    learn_vocabulary,
    trained_receipts,
    write_vocabulary,
)

TEXTS = [
    "pdcch_config = self.get_pdcch(harq_id, slot_index)  # HARQ process of the slot",
    "Café, naïve Ünïcode; κόσμος x\u00a0y [MASK] don't",
    "协议数据单元 PDU 中文 3gpp",
    "scheduler.scheduling(schedule) + reschedule - unscheduled",
]


def counts_of(words: dict[str, int], heldout: dict[str, int] | None = None) -> pl.DataFrame:
    heldout = heldout or {}
    every = list(dict.fromkeys([*words, *heldout]))
    return pl.DataFrame(
        {
            "word": every,
            "n": [words.get(w, 0) for w in every],
            "n_files": [1] * len(every),
            "n_heldout": [heldout.get(w, 0) for w in every],
        },
        schema={"word": pl.String, "n": pl.UInt64, "n_files": pl.UInt32, "n_heldout": pl.UInt64},
    )


def settings(**changes: object) -> TokenizerSettings:
    return TokenizerSettings.model_validate({"mode": "train", "vocabulary_size": 300, "min_frequency": 1, **changes})


def many_words(seed: int = 0, n: int = 400) -> dict[str, int]:
    """Words over few letters with small counts: most merges tie."""
    rng = random.Random(seed)
    words = {"".join(rng.choices("abcdeé中0", k=rng.randint(1, 7))): rng.randint(1, 4) for _ in range(n)}
    return {**words, "(": 50, ")": 50}


def learnt_slowly(words: dict[str, int], first: list[str], size: int, min_frequency: int) -> list[str]:
    """Merge the most frequent pair, of equals the one with the smallest numbers, counting all anew each time."""
    entries = list(first)
    number = {entry: i for i, entry in enumerate(entries)}
    cut = {w: [c if i == 0 else f"##{c}" for i, c in enumerate(w)] for w in words if 1 < len(w) <= 100}
    while len(entries) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in cut.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs or max(pairs.values()) < min_frequency:
            break
        best = min(pairs, key=lambda p: (-pairs[p], number[p[0]], number[p[1]]))
        new = best[0] + best[1].removeprefix("##")
        if new not in number:
            number[new] = len(entries)
            entries.append(new)
        for pieces in cut.values():
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == best:
                    pieces[i : i + 2] = [new]
                i += 1
    return entries


@pytest.mark.parametrize(("size", "min_frequency"), [(250, 1), (300, 1), (100_000, 5), (100_000, 1)])
def test_merges_are_those_of_counting_all_pairs_anew_each_time(size, min_frequency):
    words = many_words()
    found = learn_vocabulary(counts_of(words), settings(vocabulary_size=size, min_frequency=min_frequency))
    n_first = next(i for i, entry in enumerate(found) if len(entry.removeprefix("##")) > 1 and entry not in SPECIALS)
    assert found == learnt_slowly(words, found[:n_first], size, min_frequency)
    assert len(found) > n_first + 20


def test_the_vocabulary_does_not_depend_on_the_order_of_the_rows():
    counts = counts_of(many_words(seed=3))
    found = {tuple(learn_vocabulary(counts.sample(fraction=1, shuffle=True, seed=s), settings())) for s in range(8)}
    assert len(found) == 1


def test_the_vocabulary_does_not_depend_on_threads_or_the_process():
    code = (
        "import hashlib; import test_tokenization_vocabulary as t; "
        "v = t.learn_vocabulary(t.counts_of(t.many_words(n=5000)), t.settings(vocabulary_size=2000)); "
        "print(hashlib.sha256('\\n'.join(v).encode()).hexdigest())"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    found = set()
    for threads in ("1", "1", "3"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads, "PYTHONPATH": path}
        environment["TOKENIZERS_PARALLELISM"] = "false" if threads == "1" else "true"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_a_word_counts_as_often_as_it_stands_in_the_corpus():
    # 2,500 times is more than a text that is handed over at once holds.
    found = learn_vocabulary(counts_of({"xy": 2500, "zw": 2499, "uv": 2501}), settings())
    assert found[-3:] == ["uv", "xy", "zw"]


def test_words_are_handed_over_in_texts_of_bounded_length():
    counts = counts_of({"xy": 2500, "zw": 1, "uv": 501})
    texts = list(_repeated(counts))
    assert Counter(word for text in texts for word in text.split()) == {"xy": 2500, "zw": 1, "uv": 501}
    assert [len(text.split()) for text in texts] == [1000, 1000, 1000, 2]


def test_words_of_the_held_out_splits_alone_teach_nothing():
    words = many_words()
    alone = learn_vocabulary(counts_of(words), settings())
    assert learn_vocabulary(counts_of(words, {"heldout": 99, "ß": 99}), settings()) == alone


def test_special_entries_come_first_and_every_visible_ascii_character_has_an_entry():
    found = learn_vocabulary(counts_of({"zz": 1}), settings())
    assert tuple(found[:5]) == SPECIALS
    visible = {chr(c) for c in range(33, 127)}
    assert visible - set(found) == {chr(c) for c in range(ord("A"), ord("Z") + 1)}
    assert {f"##{c}" for c in "abcxyz019"} <= set(found)
    assert "##(" not in found
    rich = learn_vocabulary(counts_of({"éa中": 9, "zà": 2, "~": 5}), settings())
    plain, inner = (
        [e for e in rich if e.startswith("##") == goes_on and len(e) == 1 + 2 * goes_on] for goes_on in (0, 1)
    )
    assert plain == sorted(plain)
    assert inner == sorted(inner)
    assert visible <= set(learn_vocabulary(counts_of({"Zz": 1}), settings(lower_case=False)))


def test_a_rare_character_has_no_entry_and_its_words_teach_nothing():
    words = {"abc": 3, "éq": 1, "qéabc": 1, "żabab": 2}
    found = learn_vocabulary(counts_of(words), settings(min_frequency=3))
    assert not {"é", "##é", "ż", "##ż"} & set(found)
    assert found[-1] == "abc"
    assert "##abc" not in found
    assert "é" in learn_vocabulary(counts_of(words), settings(min_frequency=2))


def test_only_the_most_frequent_characters_have_entries_where_there_are_too_many():
    words = {"中": 5, "文": 9, "协": 5, "议": 1}
    found = learn_vocabulary(counts_of(words), settings(max_characters=94 - 26 + 2))
    # Of those that stand as often as each other the first by code point.
    assert [c for c in words if c in found] == ["中", "文"]


def test_a_word_longer_than_the_tokenizer_reads_teaches_nothing():
    found = learn_vocabulary(counts_of({"q" * 101: 9, "w" * 100: 2}), settings())
    assert not [entry for entry in found if "qq" in entry]
    assert "w" * 100 in found


def test_characters_that_fill_the_vocabulary_are_refused_with_what_to_do():
    words = {chr(0x4E00 + i): 2 for i in range(300)}
    with pytest.raises(SettingsError, match=r"tokenizer\.vocabulary_size: expected more than 409 .* found 300\. Raise"):
        learn_vocabulary(counts_of(words), settings())


def test_a_training_split_without_words_is_refused():
    with pytest.raises(DataError, match="expected words in the training split, found none"):
        learn_vocabulary(counts_of({}, {"only": 3}), settings())


@pytest.fixture(params=[True, False], ids=["lower case", "cased"])
def folder(request, tmp_path):
    lower = request.param
    cutter = bert_cutter(lower_case=lower)
    texts = [cutter.normalizer.normalize_str(text) for text in TEXTS]
    words = Counter(piece for text in texts for piece, _ in cutter.pre_tokenizer.pre_tokenize_str(text))
    entries = learn_vocabulary(counts_of(dict(words)), settings(lower_case=lower))
    write_vocabulary(entries, tmp_path, lower_case=lower)
    return tmp_path, lower, entries


def test_other_readers_cut_text_as_we_do(folder):
    path, lower, entries = folder
    ours = load_tokenizer(path)
    assert [ours.id_to_token(i) for i in range(ours.get_vocab_size())] == entries
    assert (path / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1] == entries
    for kind in (AutoTokenizer, BertTokenizerFast):
        theirs = kind.from_pretrained(str(path))
        assert len(theirs) == len(entries)
        assert theirs.convert_tokens_to_ids(list(SPECIALS)) == [0, 1, 2, 3, 4]
        for text in (text.replace("[MASK]", "mask") for text in TEXTS):
            ids = [2, *ours.encode(text, add_special_tokens=False).ids, 3]
            assert theirs(text)["input_ids"] == ids, text
        pair = theirs("pdcch", "harq")
        assert set(pair["token_type_ids"]) == {0, 1}
    assert ours.encode("Harq", add_special_tokens=False).tokens[0][0] == ("h" if lower else "H")


def test_chinese_characters_stand_alone_and_are_known(folder):
    tokens = load_tokenizer(folder[0]).encode("协议数据单元", add_special_tokens=False).tokens
    assert tokens == list("协议数据单元")


def test_lines_are_cut_for_learning_as_the_learnt_tokenizer_cuts_them(folder):
    path, lower, _ = folder
    lines = pa.chunked_array([pa.array([*TEXTS, "", "a\tb", "İstanbul ß"])])
    one, two = Lexer(bert_cutter(lower_case=lower)), Lexer(load_tokenizer(path))
    first, second = one.lex(lines), two.lex(lines)
    assert [one.interning.strings[c] for c in first.codes] == [two.interning.strings[c] for c in second.codes]
    assert first.offsets.tolist() == second.offsets.tolist()


def test_receipts_are_those_counted_by_hand(tmp_path):
    # Known as wholes: harq (by four merges' worth of counts) and mac; "rlc" falls into letters; "é" is unknown.
    counts = counts_of({"harq": 9, "mac": 9}, {"harq": 3, "rlc": 1, "é": 4, "(": 2})
    write_vocabulary(learn_vocabulary(counts, settings()), tmp_path, lower_case=True)
    tokenizer = load_tokenizer(tmp_path)
    lexer = Lexer(tokenizer)
    lexer.interning.codes(counts["word"].to_arrow())
    pieces = pieces_of(tokenizer, lexer.interning.strings)
    found = trained_receipts(tokenizer, lexer.interning, pieces, asked=300, counts=counts)
    assert found["fertility"] == {"before": None, "after": {"tokens_per_word": 6 / 4, "one_token_words_pct": 75.0}}
    assert found["unknown_heldout_pct"] == pytest.approx(40.0)
    assert found["characters_per_token_heldout"] == pytest.approx((12 + 3 + 4 + 2) / (3 + 3 + 4 + 2))
    assert found["heldout_words"] == 4
    # All but the special ones, harq and mac.
    assert found["new_rows_never_trained"] == found["entries_after"] - 5 - 2
    assert {"harq", "mac"} <= set(found["first_words"])
    assert not [w for w in found["first_words"] if w.startswith("##") or len(w) == 1]
    assert json.dumps(found)
    assert np.isfinite(found["characters_per_token_heldout"])
