"""Functions of files: against Python's own parser, and on samples of C and C++ whose functions are known by hand."""

import ast
import importlib
import io
import time
import tokenize
from pathlib import Path

import numpy as np
import pytest

import commbert
from commbert.text import functions
from commbert.text.briefs import MAX_CHARS, brief_of_comment, brief_of_docstring
from commbert.text.functions import functions_of, has_grammar

LIBRARY = ("argparse", "ast", "dataclasses", "difflib", "typing")
SOURCES = [
    *sorted(Path(commbert.__file__).parent.rglob("*.py"))[::5],
    *(Path(importlib.import_module(name).__file__) for name in LIBRARY),
]


def lines_of(source):
    """Return line_no, indent and text as the table shard/lines has them: no blank lines, tabs are 8 columns."""
    lines = [line.expandtabs(8) for line in source.split("\n")]
    rows = [(i + 1, len(line) - len(line.lstrip()), line.strip()) for i, line in enumerate(lines) if line.strip()]
    return np.array([r[0] for r in rows], int), np.array([r[1] for r in rows], int), [r[2] for r in rows]


def found(source, language):
    return functions_of(language, *lines_of(source))


def places(source, language):
    return [(f.name, f.first_line, f.last_line) for f in found(source, language)]


def names(source, language):
    return [f.name for f in found(source, language)]


def brief(source, language="c"):
    [function] = found(source, language)
    return function.brief


def python_functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def own_line_docstring(node, source):
    """Return the docstring's node if it shares no line with other code."""
    first = node.body[0]
    if ast.get_docstring(node) is None or not isinstance(first, ast.Expr):
        return None
    lines = source.split("\n")
    head = lines[first.lineno - 1].encode()[: first.col_offset].decode().strip()
    tail = lines[first.end_lineno - 1].encode()[first.end_col_offset :].decode().strip()
    return first if not head and (not tail or tail.startswith("#")) else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_functions_of_python_are_those_of_its_own_parser(path):
    source = path.read_text(encoding="utf-8")
    expected = []
    for node in python_functions(ast.parse(source)):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        expected.append((node.name, first, node.end_lineno))
    assert sorted(places(source, "python")) == sorted(expected)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_lines_of_a_python_function_are_those_with_a_token_but_for_docstrings(path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    holders = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    docs = {k for n in holders if (d := own_line_docstring(n, source)) for k in range(d.lineno, d.end_lineno + 1)}
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            held |= set(range(token.start[0], token.end[0] + 1))
    filled = {i + 1 for i, line in enumerate(source.split("\n")) if line.strip()}
    for f in found(source, "python"):
        expected = {k for k in held & filled if f.first_line <= k <= f.last_line} - docs
        assert set(f.lines.tolist()) == expected, f.name


def test_a_python_brief_is_the_beginning_of_the_docstring():
    n_equal = n_docs = 0
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        by_place = {(f.name, f.last_line): f for f in found(source, "python")}
        for node in python_functions(ast.parse(source)):
            if doc := own_line_docstring(node, source):
                text = ast.literal_eval("(" + ast.get_source_segment(source, doc) + ")")
                told = by_place[node.name, node.end_lineno].brief
                assert told in " ".join(text.split()) or len(told) > 300 or "\\" in told
                n_docs += 1
                n_equal += told == " ".join(text.strip().split("\n\n")[0].split())
    assert n_equal >= 0.9 * n_docs > 200


def test_a_function_without_docstring_takes_the_comment_above_its_decorators():
    source = "x = 1  # no\n# One of\n# two.\n@a\n@b(1)\ndef f():\n    return 1\n\n# far\n\ndef g(): pass\n"
    one, two = found(source, "python")
    assert (one.name, one.first_line, one.last_line, one.brief) == ("f", 4, 7, "One of two.")
    assert (two.brief, two.lines.tolist()) == ("", [11])


def test_a_docstring_on_the_line_of_code_is_code():
    [f] = found('def f(): "Says it."; return 1\n', "python")
    assert (f.brief, f.lines.tolist()) == ("", [1])


def test_strings_that_are_no_docstrings_are_code():
    for literal in ('f"""x {a}"""', 'b"""x"""'):
        [f] = found(f"def f():\n    {literal}\n    return 1\n", "python")
        assert (f.brief, f.lines.tolist()) == ("", [1, 2, 3])


def test_lambdas_are_no_functions_and_nested_functions_are():
    source = "def f():\n g = lambda: 1\n async def h():\n  class A:\n   def m(self):\n    pass\n"
    assert places(source, "python") == [("f", 1, 6), ("h", 3, 6), ("m", 5, 6)]
    assert names("int f() { auto l = [](int a) { return a; }; return l(1); }", "cpp") == ["f"]


C = """\
#include <a.h>
#define MAX(a, b) do { f(); } while (0)
int declared(int x);
struct s { int (*pointer)(int); } t = { declared };

/* Adds. */
static inline uint32_t
add(uint32_t a, /* first */
    uint32_t b)
{
  if (a) {
    { return b; }
  }
  // nothing
  return a + b; /* the
  sum */
}

int old(a, b)
  int a; char *b;
{
  return a;
}
EXPORT(x) int exported(void) { return MAX(1, 2); }
int *(*table(int x))(int) { return 0; }
char **words(void) { return 0; }
__attribute__((noinline)) void marked(void) {}
#ifdef A
int branched(int a) {
#else
int branched(long a) {
#endif
  return 1;
}
#if B
int guarded(void)
{
  return 2;
}
#endif
int
last(void) { return "}"[0] + '{'; }
"""


def test_functions_of_c_are_found_with_macros_old_style_and_preprocessor_branches():
    expected = {
        ("add", 7, 17),
        ("old", 19, 23),
        ("exported", 24, 24),
        ("table", 25, 25),
        ("words", 26, 26),
        ("marked", 27, 27),
        ("branched", 31, 34),
        ("guarded", 36, 39),
        ("last", 41, 42),
    }
    assert set(places(C, "c")) == expected


def test_comments_are_no_lines_of_a_function_of_c():
    [add] = [f for f in found(C, "c") if f.name == "add"]
    assert add.brief == "Adds."
    assert add.lines.tolist() == [7, 8, 9, 10, 11, 12, 13, 15, 17]


CPP = """\
namespace phy {
template <typename T>
class Filter : public Base<T> {
 public:
  Filter() : a_{1} {}
  explicit Filter(int a) noexcept : a_(a) { init(); }
  Filter(const Filter&) = delete;
  Filter& operator=(const Filter&) = default;
  ~Filter() override {}
  virtual int pure() = 0;
  T get() const { return a_; }
  friend bool operator==(const Filter& x, const Filter& y) { return true; }
 private:
  T a_;
};

/// Runs it.
template <typename T>
template <typename S>
auto Filter<T>::run(S s) const -> decltype(s)
{
  struct Inner { int inner() { return 1; } };
  return s;
}
template <> int Filter<std::vector<int>>::run<int>(int s) { return s; }
Filter<int>::operator bool() const { return true; }
int Filter<int>::operator()(int x) { return x; }
}  // namespace phy
extern "C" int plain(void) { return 1; }
extern "C" {
int other(void) { return 1; }
}
TEST(Suite, Case) { EXPECT_EQ(1, 1); }
int f() try { return 1; } catch (...) { return 2; }
"""


def test_functions_of_cpp_are_found_in_classes_and_templates():
    expected = [
        ("Filter", 5, 5),
        ("Filter", 6, 6),
        ("~Filter", 9, 9),
        ("get", 11, 11),
        ("operator==", 12, 12),
        ("Filter<T>::run", 18, 24),
        ("inner", 22, 22),
        ("Filter<std::vector<int>>::run<int>", 25, 25),
        ("Filter<int>::operator bool", 26, 26),
        ("Filter<int>::operator()", 27, 27),
        ("plain", 29, 29),
        ("other", 31, 31),
        ("TEST", 33, 33),
        ("f", 34, 34),
    ]
    assert places(CPP, "cpp") == expected
    assert next(f for f in found(CPP, "cpp") if f.name == "Filter<T>::run").brief == "Runs it."


def test_a_macro_before_the_type_leaves_the_name():
    source = "template <class A, class B>\nAPI A run(B b) { return b; }\nAPI std::pair<A, B> both(B b) { return b; }\n"
    source += "struct S { API type get() { return 1; }\nAPI type operator()(int a) { return a; } };\n"
    assert names(source, "cpp") == ["run", "both", "get", "operator()"]
    assert names("int A<int, long>::get() { return 1; }", "cpp") == ["A<int, long>::get"]


def test_a_class_behind_a_macro_is_no_function():
    assert names("class API phy::Filter { int get() { return 1; } };\nclass API Two { int a; };\n", "cpp") == ["get"]


def test_a_header_of_cpp_that_is_called_c_is_read_as_cpp():
    assert places(CPP, "c") == places(CPP, "cpp")


def test_words_of_a_comment_do_not_make_c_to_cpp():
    old = "/* Using the\n class of a namespace. */\nint f(a)\nint a;\n{\n  int new = 1;\n  return new;\n}\n"
    assert places(old, "c") == [("f", 3, 8)]


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        ("/** Adds two. */", "Adds two."),
        ("/** Adds\n * two.\n *\n * More. */", "Adds two."),
        ("/*! \\fn int f(int)\n *  \\brief Adds two\n *  numbers.\n *  \\param a one */", "Adds two numbers."),
        ("/**\n * @brief  Adds.\n * @param a One\n */", "Adds."),
        ("/// Adds\n/// two.", "Adds two."),
        ("//! \\brief Adds.\n//! \\return it", "Adds."),
        ("// Adds\n// two.\n//\n// More.", "Adds two."),
        ("/* one */\n/* two */", "one two"),
        ("/* about others\n */\n// Adds.", "Adds."),
        ("/* about others */\n/* Adds\n two */", "Adds two"),
        ("/**********\n * Adds.  *\n **********/", "Adds."),
        ("/*\n * f() - Adds two.\n * @a: one\n */", "Adds two."),
        ("/*\n * Function: f\n * -----------\n * Adds two.\n *\n * returns: it\n */", "Adds two."),
        ("/* Description: Adds. */", "Adds."),
        ("/*\n * @param a One\n */", ""),
        ("/* ---------------------- */", ""),
        ("// 1.2.3", ""),
        ("/*\n Adds\n without stars.\n*/", "Adds without stars."),
        ("int x; /* of x */", ""),
        ("/* of y */ int y;", ""),
        ("// above\n", ""),
    ],
)
def test_the_brief_of_c_is_what_the_comment_directly_above_says_first(comment, text):
    assert brief(f"{comment}\nint f(int a) {{ return a; }}\n") == text


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ('"""Adds two."""', "Adds two."),
        ('r"""\n    Adds\n    two.\n\n    More.\n    """', "Adds two."),
        ("'Adds.'", "Adds."),
        ('"""Adds.\n    Args:\n        a: One."""', "Adds."),
        ('"""Adds.\n    :param a: One."""', "Adds."),
        ('"""Adds.\n    Parameters\n    ----------\n    a : int"""', "Adds."),
        ('"""Adds.\n    >>> f(1)\n    2"""', "Adds."),
        ('"""Returns the sum."""', "Returns the sum."),
        ('"""Args:\n        a: One."""', ""),
        ('""" """', ""),
    ],
)
def test_the_brief_of_python_is_the_first_paragraph_of_the_docstring(literal, text):
    assert brief(f"def f(a):\n    {literal}\n    return a\n", "python") == text
    assert brief_of_docstring(literal, "f") == text


def test_a_long_brief_is_cut_between_words():
    told = brief_of_comment("// " + "word " * 200, "f")
    assert told == ("word " * 80).strip()
    assert len(brief_of_comment("// " + "x" * 1000, "f")) == MAX_CHARS


def test_a_language_without_grammar_has_no_functions():
    assert functions_of("verilog", *lines_of("module m; endmodule")) is None
    assert not has_grammar("text")
    assert has_grammar("cpp")


def test_a_file_without_lines_has_no_functions():
    assert functions_of("c", *lines_of("")) == []


def test_broken_syntax_hides_no_function_around_it():
    source = "int a(void) { return 1; }\n}}} )( else if (x) { y; }\nint b(void) { return 2; }\n"
    assert {"a", "b"} <= set(names(source, "c"))
    assert "if" not in names(source, "c")
    assert "g" in names("def f(:\n  pass\n\nclass = 3 )\n\ndef g():\n  pass\n", "python")


HOSTILE = {
    "parentheses": "int f() { return " + "(" * 100_000 + "1" + ")" * 100_000 + "; }",
    "open parentheses": "(" * 300_000,
    "braces": "void f() {" + "{" * 200_000 + "}" * 200_000 + "}",
    "nested functions": "struct A { void f() { " * 20_000,
    "templates": "template <class T> " * 20_000 + "void f() {}",
    "less than": "a<" * 50_000,
    "labels": "&:" * 50_000,
    "questions": "&?.*" * 20_000,
    "decorators": "@a\n" * 10_000 + "def f(): pass",
    "nested defs": "".join(" " * i + "def f():\n" for i in range(1200)),
    "deep indent": " " * 65_535 + "def f(): pass",
    "stars": "int " + "*" * 100_000 + "f() {}",
    "quotes": '"' * 100_000,
    "comments": "/*" * 100_000 + "*/ int f() {}",
    "comment lines": "// a\n" * 20_000 + "int f() {}",
    "conditions": "#if A\nint f() {\n#else\n" * 10_000,
    "colons": "*-else])" * 10_000,
    "docstring": 'def f():\n  """' + "word\n" * 100_000 + '"""',
    "surrogate": "int f() { return '\ud800'; }",
    "null": "int f() { return '\0'; }",
}


@pytest.mark.parametrize("language", ["c", "cpp", "python"])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_text_takes_bounded_time(what, language):
    lines = lines_of(HOSTILE[what])
    start = time.process_time()
    result = functions_of(language, *lines)
    assert time.process_time() - start < 6
    depth = []
    for f in sorted(result or [], key=lambda f: (f.first_line, -f.last_line)):
        depth = [last for last in depth if last > f.last_line]
        depth.append(f.last_line)
        assert len(depth) <= functions.MAX_DEPTH
        assert len(f.brief) <= MAX_CHARS
        assert len(f.name) <= functions.MAX_NAME_CHARS


def test_a_file_larger_than_the_limit_is_not_parsed():
    source = "int f(void) { return 1; }\n" * (2**20 // 26)
    assert len(found(source, "c")) == 2**20 // 26
    assert functions_of("c", *lines_of(source * 4)) is None
    line_no, indent, text = lines_of("int f() {}\nint g() {}")
    assert functions_of("c", line_no, indent + 2**20, text) is None
    assert functions_of("c", line_no * 2**20, indent, text) is None


def test_the_parser_gives_up_after_steps_and_not_after_seconds():
    results = [functions_of("c", *lines_of("int f() {}\n" + "&:" * n)) for n in (10, 100, 3000)]
    assert [r is None for r in results] == [False, False, True]
