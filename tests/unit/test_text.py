import io
import time
import tokenize

import numpy as np
import pytest

from commbert.text.comments import without_comments
from commbert.text.decoding import decode, split_lines
from commbert.text.languages import KEYWORDS, language_of


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"", "", "utf-8"),
        (b"abc", "abc", "utf-8"),
        ("é".encode(), "é", "utf-8"),
        (b"\xef\xbb\xbfabc", "abc", "utf-8"),
        (b"\xff\xfea\0b\0", "ab", "utf-16-le"),
        (b"\xfe\xff\0a\0b", "ab", "utf-16-be"),
        (b"\xff\xfe\0\0a\0\0\0", "a", "utf-32-le"),
        (b"\0\0\xfe\xff\0\0\0a", "a", "utf-32-be"),
        (b"caf\xe9", "café", "latin-1"),
        (b"\x80\x9f\xff", "\x80\x9f\xff", "latin-1"),
    ],
)
def test_text_is_read_by_its_mark_else_as_utf8_else_as_latin1(data, text, encoding):
    decoded = decode(data)
    assert (decoded.text, decoded.encoding) == (text, encoding)


@pytest.mark.parametrize(
    "data",
    [b"a\0b", b"\xff\xfea", b"\xff\xfe\0\xd8", b"\xef\xbb\xbf\xff", b"\xe9\x01" * 50],
    ids=["NUL", "odd UTF-16", "lone surrogate", "broken UTF-8 after a mark", "2 % control characters"],
)
def test_what_is_no_text_is_called_binary(data):
    decoded = decode(data)
    assert (decoded.text, decoded.encoding) == (None, "binary")


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("a中b\n".encode(), "a中b\n", "utf-8"),
        ("привет العربية 한국어 😀".encode(), "привет العربية 한국어 😀", "utf-8"),
        ("中文".encode("utf-16"), "中文", "utf-16-le"),
        (b"\xef\xbb\xbf", "", "utf-8"),
        (b"a\0\0b", None, "binary"),
        ("ab\n".encode("utf-16-le"), None, "binary"),  # no mark: never guessed
        (b"\xed\xa0\x80", "\xed\xa0\x80", "latin-1"),  # a lone surrogate is no UTF-8
        (b"\xc0\xaf", "\xc0\xaf", "latin-1"),  # nor is an overlong form
        (b"a\rb\r", "a\rb\r", "utf-8"),
    ],
)
def test_other_scripts_pass_unharmed_and_what_is_unclear_is_not_guessed(data, text, encoding):
    decoded = decode(data)
    assert (decoded.text, decoded.encoding) == (text, encoding)


def test_no_bytes_decode_to_a_lone_surrogate():
    rng = np.random.default_rng(31)
    for _ in range(2000):
        mark = [b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"][rng.integers(4)]
        text = decode(mark + rng.bytes(2 * int(rng.integers(1, 8)))).text
        assert text is None or text.encode("utf-8").decode("utf-8") == text


def test_a_line_of_five_megabytes_is_one_line():
    assert list(map(len, split_lines(decode(b"x" * 5_000_000 + b"\ny").text))) == [5_000_000, 1]


def test_one_percent_of_control_characters_is_still_latin1():
    assert decode(b"\xe9" * 99 + b"\x01").encoding == "latin-1"


def test_latin1_keeps_every_byte():
    data = bytes(range(0xA0, 0x100)) * 3
    assert decode(data).text.encode("latin-1") == data


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\n", ["a", ""]),
        ("a\rb\r", ["a", "b"]),
        ("a\r\nb\rc\nd", ["a", "b", "c", "d"]),
        ("a\n\rb", ["a", "", "b"]),
        ("a\fb\x85c\u2028d\x1ce\vf\n", ["a\fb\x85c\u2028d\x1ce\vf"]),
    ],
)
def test_lines_end_at_carriage_return_and_line_feed_only(text, lines):
    assert split_lines(text) == lines


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("a; // b", "a;  "),
        ("a /* b */ c", "a   c"),
        ("a/**/b", "a b"),
        ("a /* b\nc */ d", "a  \n d"),
        ("a // b \\\nc\nd", "a  \n\nd"),
        ('"// no comment"; // x', '"// no comment";  '),
        ('"/*"; a; "*/"', '"/*"; a; "*/"'),
        (r'"a\" // in"; // out', r'"a\" // in";  '),
        (r"'\''; // out", r"'\'';  "),
        ("'\"'; // out", "'\"';  "),
        ("'//'; b", "'//'; b"),
        ('"a \\\n// in"; // out', '"a \\\n// in";  '),
        ('R"(a // in "quoted" )" // out', 'R"(a // in "quoted" )"  '),
        ('R"x( )" // in )x" // out', 'R"x( )" // in )x"  '),
        ('u8R"(// in\n// in)" // out', 'u8R"(// in\n// in)"  '),
        ("n = 1'000'000; // out", "n = 1'000'000;  "),
        ("x = 0xFF'FFu; c = 'a'; // out", "x = 0xFF'FFu; c = 'a';  "),
        ("a / b * c", "a / b * c"),
        ("// it's\nb", " \nb"),
        ("/* don't */ b", "  b"),
        ("/* never closed\nb", " \n"),
        ('"never closed\nb // out', '"never closed\nb  '),
        ('/* "*/ a; /* "*/', "  a;  "),
        ("a //* b\nc */ d", "a  \nc */ d"),
    ],
)
def test_c_comments_go_and_strings_stay(source, code):
    assert without_comments(source, "c") == code
    assert without_comments(source, "cpp") == code


def test_a_line_comment_that_ends_in_two_backslashes_goes_on_in_the_next_line():
    # The C preprocessor joins lines (phase 2) before it looks for escapes.
    assert without_comments("a // b \\\\\nc\nd", "c") == "a  \n\nd"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("a = 1  # b", "a = 1   "),
        ("'# no'  # b", "'# no'   "),
        ('"\'# no"  # b', '"\'# no"   '),
        (r"'\'# no'  # b", r"'\'# no'   "),
        ("x = '''# no\n# no'''  # b", "x = '''# no\n# no'''   "),
        ('"""doc"""\na', " \na"),
        ('def f():\n    """doc\n    more\n    """\n    a', "def f():\n     \n\n\n    a"),
        ('def f():\n    r"""doc"""\n    a', "def f():\n     \n    a"),
        ("def f():\n    '''doc'''  # b\n    a", "def f():\n        \n    a"),
        ('x = """text"""', 'x = """text"""'),
        ('f(\n"""text"""\n)', 'f(\n"""text"""\n)'),
        ('x = [\n"""a""",\n"""b"""\n]', 'x = [\n"""a""",\n"""b"""\n]'),
        ('"""text""".join(x)', '"""text""".join(x)'),
        ('x = \\\n"""text"""', 'x = \\\n"""text"""'),
        ('return """text"""', 'return """text"""'),
        ('"""a \\""" b"""\nc', " \nc"),
        ('"""it\'s "quoted" """\nc', " \nc"),
        ('"""never closed\nb', " \n"),
        ("'never closed\nb # out", "'never closed\nb  "),
        ("x = 'a' '# no' # out", "x = 'a' '# no'  "),
        ("x = 'a\\\n# in' # out", "x = 'a\\\n# in'  "),
        ("f'{x}# no' # out", "f'{x}# no'  "),
        ("#!/usr/bin/python\nx", " \nx"),
        ("x = {')': '# no'} # out", "x = {')': '# no'}  "),
    ],
)
def test_python_comments_and_docstrings_go_and_strings_stay(source, code):
    assert without_comments(source, "python") == code


def test_text_of_another_language_stays_as_it_is():
    assert without_comments("a # b // c /* d */", "text") == "a # b // c /* d */"


PYTHON_SAMPLE = '''\
#!/usr/bin/env python
import os  # first

def scheduler(harq, *, rlc="# none"):  # second
    value = {"#": '#', 'it"s': "it's"}  # third "quoted"
    text = f"# {harq!r:>{10}} #" + rb'\\#' + """ # in
# in a string
""" + "a\\\\"  # fourth
    return (value,  # fifth
            text)  # sixth'''


def test_python_comments_are_the_ones_that_the_tokenizer_of_python_finds():
    rows = PYTHON_SAMPLE.split("\n")
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(PYTHON_SAMPLE).readline))):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            rows[row - 1] = rows[row - 1][:column] + " "
    assert without_comments(PYTHON_SAMPLE, "python").split("\n") == rows


@pytest.mark.parametrize("language", ["c", "cpp", "python", "text"])
def test_line_breaks_are_never_lost_or_added(language):
    rng = np.random.default_rng(17)
    parts = ['"', "'", '"""', "'''", "#", "//", "/*", "*/", "\\", "\n", "(", ")", "a", " ", 'R"(', ')"', "1'0", "f"]
    for _ in range(3000):
        text = "".join(rng.choice(parts, rng.integers(1, 25)))
        assert without_comments(text, language).count("\n") == text.count("\n"), repr(text)


@pytest.mark.parametrize("language", ["c", "python"])
def test_removing_comments_twice_changes_nothing_more(language):
    source = "a // b\n/* c */ d # e\n'x' # y\n"
    once = without_comments(source, language)
    assert without_comments(once, language).split() == once.split()


@pytest.mark.parametrize("language", ["c", "python"])
@pytest.mark.parametrize("unit", ["/*", '"""', "'", '"\\', 'R"(', "(", "\\\n", "'''\n"])
def test_a_hostile_file_takes_no_quadratic_time(language, unit):
    # 20,000 characters: milliseconds when every character is looked at a few times, seconds when the square is.
    text = unit * (20_000 // len(unit))
    began_s = time.process_time()
    without_comments(text, language)
    assert time.process_time() - began_s < 0.5


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a.c", "c"), ("a.h", "c"), ("A.H", "c"), ("a.cc", "cpp"), ("d.x/a.hpp", "cpp"), ("a.cu", "cpp"),
        ("a.py", "python"), ("a.tar.py", "python"), ("a.md", "text"), ("Makefile", "make"), ("a.c/README", "text"),
        ("", "text"), ("a.", "text"), ("d/CMakeLists.txt", "cmake"), ("a.txt", "text"), ("a.rs", "rust"), ("a.sv",
        "verilog"),
        ("a.asn1", "asn1"), ("a.vhd", "vhdl"), ("a.m", "matlab"), ("a.mk/b", "text"), ("Makefile/a.go", "go"),
    ],
)  # fmt: skip
def test_the_suffix_names_the_language(path, language):
    assert language_of(path) == language


def test_keywords_are_lower_case_and_hold_those_of_all_languages():
    assert {"for", "int", "self", "lambda", "template", "none", "match", "ifdef"} <= KEYWORDS
    assert all(word == word.lower() for word in KEYWORDS)
    assert "_" not in KEYWORDS
