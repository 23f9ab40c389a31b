import itertools
import re

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from commbert.settings.words import WordSettings
from commbert.text.interning import Interning
from commbert.text.words import words_of_lines

WORD = WordSettings().pattern
ANY_SCRIPT = r"[\p{L}_][\p{L}\p{M}\p{N}_]*"


def found(lines, interning=None, **changes):
    """Return the words of each line."""
    interning = interning or Interning()
    lines = lines if isinstance(lines, pa.ChunkedArray) else pa.chunked_array([pa.array(lines, pa.string())])
    result = words_of_lines(lines, interning, **{"pattern": WORD, "min_chars": 2, "max_chars": 8, **changes})
    strings = interning.strings
    return [[strings[c] for c in result.codes[a:b]] for a, b in itertools.pairwise(result.offsets)]


def test_words_are_lower_case_and_each_stands_once_in_its_line():
    assert found(["HARQ_id = harq_ID + rlc(harq_id, mac)"]) == [["harq_id", "rlc", "mac"]]


def test_a_line_without_words_keeps_its_place():
    assert found(["", "ab", "+ 1", "", "cd", ""]) == [[], ["ab"], [], [], ["cd"], []]


@pytest.mark.parametrize("lines", [[], [""], ["1 2", "+"]])
def test_lines_of_nothing_have_no_words(lines):
    assert found(lines) == [[] for _ in lines]
    assert found(pa.chunked_array([], pa.string())) == []


def test_words_outside_of_the_length_bounds_are_left_out():
    assert found(["a ab abcdefgh abcdefghi"]) == [["ab", "abcdefgh"]]
    assert found(["a ab"], min_chars=1, max_chars=1) == [["a"]]


def test_lengths_are_counted_in_characters():
    assert found(["é éé ééé"], pattern=r"\w+", min_chars=2, max_chars=2) == [["éé"]]


def test_a_word_has_one_code_in_all_lines():
    interning = Interning()
    lines = pa.chunked_array([pa.array(["ab cd", "cd ab ef"])])
    result = words_of_lines(lines, interning, pattern=WORD, min_chars=2, max_chars=8)
    assert (interning.strings, result.codes.tolist()) == (["ab", "cd", "ef"], [0, 1, 0, 1, 2])
    assert result.offsets.tolist() == [0, 2, 5]


def test_a_number_starts_no_word():
    assert found(["3gpp 0xff g3pp"]) == [["g3pp"]]


def test_words_of_other_scripts_are_found_by_a_pattern_of_letters_marks_and_numbers():
    lines = ["信道 = 估计_1 + канал", "क्षा x2 2x ÀB", "中 文"]
    assert found(lines, pattern=ANY_SCRIPT, min_chars=1) == [
        ["信道", "估计_1", "канал"],
        ["क्षा", "x2", "x", "àb"],
        ["中", "文"],
    ]


def test_the_default_pattern_finds_ascii_words_only():
    assert found(["信道 ab канал"]) == [["ab"]]


def test_case_is_lowered_before_words_are_looked_for():
    # A capital that the pattern does not name is found by its small letter.
    assert found(["AB Cd"], pattern="[a-z]+") == [["ab", "cd"]]


def random_lines(n, seed=17):
    rng = np.random.default_rng(seed)
    parts = [*"abcABC_ 019+-(é中\t", "harq", "HARQ_id", "  ", "x" * 9]
    return ["".join(parts[i] for i in rng.integers(0, len(parts), rng.integers(0, 14))) for _ in range(n)]


def test_words_are_those_of_a_regular_expression_one_line_after_the_other():
    lines = random_lines(3000)
    expected = [
        {w for w in re.findall(r"\b[a-zA-Z_][a-zA-Z0-9_]*\b", line.lower()) if 2 <= len(w) <= 8} for line in lines
    ]
    ours = found(lines)
    assert [set(words) for words in ours] == expected
    assert sum(map(len, ours)) == sum(map(len, expected)) > 1000


def test_a_slice_and_chunks_of_lines_are_read_from_their_offset():
    lines = random_lines(200)
    whole = [set(words) for words in found(lines)]
    array = pa.array(lines)
    assert [set(w) for w in found(pa.chunked_array([array.slice(37, 100)]))] == whole[37:137]
    chunks = pa.chunked_array([array.slice(5, 1), array.slice(6, 0), array.slice(6, 90)])
    assert [set(w) for w in found(chunks)] == whole[5:96]


def test_words_keep_their_codes_across_pieces():
    lines = random_lines(400)
    interning = Interning()
    whole = [set(words) for words in found(lines)]
    pieces = [found(lines[at : at + 50], interning) for at in range(0, 400, 50)]
    assert [set(words) for piece in pieces for words in piece] == whole
    assert len(set(interning.strings)) == len(interning.strings) == len(set.union(*whole))


def test_strings_are_numbered_by_their_first_appearance():
    interning = Interning()
    assert interning.codes(pa.array(["b", "a", "b", ""])).tolist() == [0, 1, 0, 2]
    assert interning.codes_of(["c", "a", "c"]).tolist() == [3, 1, 3]
    assert interning.codes(pa.array([], pa.string())).tolist() == []
    assert interning.codes(pa.array(["x", "c", "b"]).slice(1)).tolist() == [3, 0]
    assert interning.strings == ["b", "a", "", "c"]
    assert interning.codes_of([]).dtype == np.uint32


@pytest.mark.parametrize("pattern", ["(", "[a-", r"(?<=a)b", r"(a)\1", "a{2,1}"])
def test_a_pattern_that_the_engine_does_not_read_is_refused_by_the_settings(pattern):
    with pytest.raises(ValidationError, match="not a regular expression"):
        WordSettings(pattern=pattern)


def test_bounds_that_exclude_each_other_are_refused():
    with pytest.raises(ValidationError, match="min_chars must not exceed max_chars"):
        WordSettings(min_chars=5, max_chars=4)
