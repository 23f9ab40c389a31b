"""Functions of a source file: where they stand, what their comment says, which lines are their code.

tree-sitter parses (Max Brunsfeld et al., https://tree-sitter.github.io); what stands around broken syntax is still
found. The tree is walked by its cursor: without recursion, unlike its queries in linear time on a node of very many
children, and no node is asked for its parent, which takes as long as the tree is deep.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_letters

import numpy as np
import tree_sitter
import tree_sitter_c
import tree_sitter_cpp
import tree_sitter_python
from numpy.typing import NDArray

from commbert.text.briefs import brief_of_comment, brief_of_docstring

Ints = NDArray[np.int64]
MAX_SOURCE_BYTES = 2**20
"""Of a file with its indents: about 25,000 lines."""
_STEPS, _STEPS_PER_BYTE = 1000, 0.032
"""The parser gives up after as many calls of its progress callback: ordinary files need at most 20 a kilobyte, and text
made to hurt (``&:&:&:``) takes quadratic time. Steps, not seconds: the result is the same on every machine."""
_READ_BYTES = 2**16
MAX_NAME_CHARS = 200
MAX_DEPTH = 16
"""Functions in more functions than this are left out: nobody writes them, and each would repeat the code of all inner
ones."""
_MAX_COMMENTS = 200

_GRAMMARS = {"python": tree_sitter_python, "c": tree_sitter_c, "cpp": tree_sitter_cpp}
_FRAMES = frozenset(("decorated_definition", "template_declaration", "friend_declaration", "linkage_specification"))
"""What stands around one function and belongs to it."""
_TOLD = _FRAMES | {"function_definition", "class_definition", "comment"}
_CASTS = frozenset(("operator_cast", "qualified_identifier"))
_NO_NAMES = frozenset(("if", "for", "while", "switch", "return", "sizeof", "catch", "else", "do", "defined"))
"""What broken syntax makes look like a function."""
_NO_BODIES = frozenset(("default_method_clause", "delete_method_clause", "pure_virtual_clause"))
_CPP_LINE = re.compile(
    r"template\s*<|namespace(?:\s+[\w:]+)?\s*\{?$|(?:public|private|protected)\s*:|using\s+[\w:]+\s*[=;]"
    r"|using\s+namespace\b|class\s+(?:\w+\s+)?\w+\s*(?:final\s*)?(?::[^:]|\{|$)"
)
"""How lines of C++ begin, and none of C: a header's name does not tell them apart."""
_END_OF_CODE = re.compile(rb"[ \t]*(?:\n|\Z|#|//|/\*)")
_DOC_PREFIXES = frozenset(("", "r", "R", "u", "U"))


@dataclass(frozen=True)
class Function:
    """One function of a file."""

    name: str
    """As it stands where the function is defined: of C++ with its class (``A<T>::get``)."""
    first_line: int
    """From 1: its decorators or template head count."""
    last_line: int
    brief: str
    """What its docstring or the comment directly above says first; empty if there is none."""
    lines: Ints
    """Numbers of its lines that hold code: no comments, no docstrings."""


class _Source:
    """A file put together again from its lines: lines that are missing are blank."""

    def __init__(self, line_no: Ints, indent: Ints, text: Sequence[str]) -> None:
        self.line_no = line_no
        self.indent_of = dict(zip((line_no - 1).tolist(), indent.tolist(), strict=True))
        """By row, from 0."""
        gaps = np.diff(line_no, prepend=1)
        parts = ["\n" * gap + " " * space + line for gap, space, line in zip(gaps, indent, text, strict=True)]
        self.data = "".join(parts).encode("utf-8", errors="replace")

    def own_rows(self, node: tree_sitter.Node) -> tuple[int, int]:
        """Return the first and the last row (from 0) that nothing but the node, and comments behind it, stands on."""
        (first, column), (last, _) = node.start_point, node.end_point
        if self.indent_of.get(first, column) != column:
            first += 1
        if not _END_OF_CODE.match(self.data, node.end_byte):
            last -= 1
        return first, last

    def is_alone(self, node: tree_sitter.Node) -> bool:
        return self.own_rows(node) == (node.start_point[0], node.end_point[0])

    def text_of(self, node: tree_sitter.Node) -> str:
        return self.data[node.start_byte : node.end_byte].decode("utf-8", errors="replace")


def has_grammar(language: str) -> bool:
    """Return whether functions of the language can be found."""
    return language in _GRAMMARS


def functions_of(language: str, line_no: Ints, indent: Ints, text: Sequence[str]) -> list[Function] | None:
    """Find the functions of one file, nested ones and methods too, in the order that they begin in; no lambdas.

    Args:
        language: A name that ``language_of`` gives. C that begins lines as only C++ does is read as C++.
        line_no: [n_lines] ascending numbers, from 1; blank lines and lines that were dropped are missing.
        indent: [n_lines] columns of white space before each line.
        text: [n_lines] without white space around it.

    Returns:
        None if the file cannot be parsed: its language has no grammar here (``has_grammar``), it is larger than
        ``MAX_SOURCE_BYTES``, or its syntax is so broken that the parser would take far longer than on any program.
    """
    if not has_grammar(language):
        return None
    if language == "c" and any(map(_CPP_LINE.match, text)):
        language = "cpp"
    space = int(np.sum(indent, dtype=np.int64)) + (int(line_no[-1]) if len(line_no) else 0)
    if space + sum(len(line.encode("utf-8", errors="replace")) for line in text) > MAX_SOURCE_BYTES:
        return None
    source = _Source(np.asarray(line_no, np.int64), np.asarray(indent, np.int64), text)
    tree = _parsed(source.data, language)
    return None if tree is None else _Finder(source, language, tree).functions()


@cache
def _grammar(language: str) -> tree_sitter.Language:
    return tree_sitter.Language(_GRAMMARS[language].language())


def _parsed(data: bytes, language: str) -> tree_sitter.Tree | None:
    """Parse, or give up after a number of steps that grows with the text."""
    steps_left = _STEPS + int(_STEPS_PER_BYTE * len(data))

    def has_enough(_offset: int, _has_error: bool) -> bool:
        nonlocal steps_left
        steps_left -= 1
        return steps_left < 0

    def read(offset: int, _point: tree_sitter.Point) -> bytes:
        return data[offset : offset + _READ_BYTES]

    try:
        return tree_sitter.Parser(_grammar(language)).parse(read, progress_callback=has_enough)
    except ValueError:
        if steps_left >= 0:
            raise
        return None


class _Finder:
    """What a walk through the tree of one file found, by place: bytes and rows count from 0."""

    def __init__(self, source: _Source, language: str, tree: tree_sitter.Tree) -> None:
        self._source, self._is_python = source, language == "python"
        self._nodes: list[tree_sitter.Node] = []
        self._comments: dict[int, tree_sitter.Node] = {}
        """Comments that stand alone on their rows, by their last row."""
        self._docs: dict[int, tree_sitter.Node] = {}
        """Docstrings that stand alone on their rows, by the byte that their function or class begins at."""
        self._around: dict[int, tuple[int, int]] = {}
        """Byte and row of the decorators, template head or other frame, by the byte that what they frame begins at."""
        self._hidden: list[tuple[int, int]] = []
        """Rows that hold no code."""
        self._walk(tree)
        self._code = _lines_outside(source.line_no, self._hidden)

    def _walk(self, tree: tree_sitter.Tree) -> None:
        cursor = tree.walk()
        frames: dict[int, tree_sitter.Node] = {}  # the last one of each depth
        depth = 0  # the cursor's own counts hidden nodes too, one by one
        while depth >= 0:
            node = cursor.node
            if node is not None and node.type in _TOLD:
                self._enter(node, frames.get(depth - 1))
                if node.type in _FRAMES:
                    frames[depth] = node
            if cursor.goto_first_child():
                depth += 1
                continue
            while depth >= 0 and not cursor.goto_next_sibling():
                cursor.goto_parent()
                depth -= 1

    def _enter(self, node: tree_sitter.Node, frame: tree_sitter.Node | None) -> None:
        """Enter a node; the frame is around it if it ends behind it."""
        if node.type == "comment":
            self._hidden.append(self._source.own_rows(node))
            if self._source.is_alone(node):
                self._comments[node.end_point[0]] = node
            return
        if frame is not None and frame.start_byte < node.start_byte < frame.end_byte:
            self._around[node.start_byte] = (frame.start_byte, frame.start_point[0])
        if node.type == "function_definition":
            self._nodes.append(node)
        doc = _docstring(node) if self._is_python else None
        if doc is not None and _is_docstring(self._source.text_of(doc)) and self._source.is_alone(doc):
            self._docs[node.start_byte] = doc
            self._hidden.append(self._source.own_rows(doc))

    def functions(self) -> list[Function]:
        found = []
        ends: list[int] = []
        for node in sorted(self._nodes, key=lambda n: (n.start_byte, -n.end_byte)):
            while ends and ends[-1] <= node.start_byte:
                ends.pop()
            ends.append(node.end_byte)
            name = self._name(node) if len(ends) <= MAX_DEPTH else ""
            if name:
                first, last = self._first_row(node), _last_row(node)
                lines = self._code[bisect_left(self._code, first + 1) : bisect_left(self._code, last + 2)]
                found.append(Function(name, first + 1, last + 1, self._brief(node, name, first), lines))
        return found

    def _first_row(self, node: tree_sitter.Node) -> int:
        at, row = node.start_byte, node.start_point[0]
        while at in self._around:
            at, row = self._around[at]
        return row

    def _name(self, node: tree_sitter.Node) -> str:
        """Return the name, or an empty text for what is no function with a body of its own."""
        if self._is_python:
            named, is_function = node.child_by_field_name("name"), True
        else:
            named, is_function = _declared(node)
        if named is None or _last_child(node) in _NO_BODIES:
            return ""
        text = self._source.text_of(named)[:MAX_NAME_CHARS]
        head, operator, rest = text.rpartition("operator")
        if operator and not is_function and named.type in _CASTS:
            # In the grammar, a conversion (operator bool() const) declares no function, and stands there whole.
            text, is_function = head + operator + rest.partition("(")[0], True
        if not is_function:
            return ""
        name = _last_word(" ".join(text.split()))
        return "" if name in _NO_NAMES else name

    def _brief(self, node: tree_sitter.Node, name: str, first_row: int) -> str:
        doc = self._docs.get(node.start_byte)
        if doc is not None:
            return brief_of_docstring(self._source.text_of(doc), name)
        parts: list[str] = []
        row = first_row - 1
        while len(parts) < _MAX_COMMENTS and (comment := self._comments.get(row)) is not None:
            parts.append(self._source.text_of(comment))
            row = comment.start_point[0] - 1
            if "\n" in parts[-1]:
                # A block of several lines is a text of its own.
                parts = parts[: max(len(parts) - 1, 1)]
                break
        return brief_of_comment("\n".join(reversed(parts)), name)


def _declared(node: tree_sitter.Node) -> tuple[tree_sitter.Node | None, bool]:
    """Return what a definition declares, of ``int *(*get(int x))(int)`` the innermost, and whether as a function."""
    named, is_function = node.child_by_field_name("declarator"), False
    while named is not None and named.type.endswith("_declarator"):
        is_function |= named.type == "function_declarator"
        named = named.child_by_field_name("declarator") or _first_child(named)
    return named, is_function


def _last_word(name: str) -> str:
    """Return a name without the type that the grammar takes for a part of it behind a macro (``API int get()``)."""
    end, depth = name.find("operator"), 0
    for at in range((end if end >= 0 else len(name)) - 1, -1, -1):
        depth += (name[at] == ">") - (name[at] == "<")
        if name[at] == " " and depth == 0:
            return name[at + 1 :]
    return name


def _first_child(node: tree_sitter.Node) -> tree_sitter.Node | None:
    return node.named_child(0) if node.named_child_count else None


def _last_child(node: tree_sitter.Node) -> str:
    child = node.named_child(node.named_child_count - 1) if node.named_child_count else None
    return child.type if child is not None else ""


def _docstring(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Return the string that is the first statement of a function or class of Python, if there is one."""
    body = node.child_by_field_name("body")
    first = _first_child(body) if body is not None else None
    if first is None or first.type != "expression_statement" or first.child_count != 1:
        return None
    child = first.child(0)
    return child if child is not None and child.type == "string" else None


def _is_docstring(literal: str) -> bool:
    return literal[: len(literal) - len(literal.lstrip(ascii_letters))] in _DOC_PREFIXES


def _last_row(node: tree_sitter.Node) -> int:
    row, column = node.end_point
    return row - 1 if column == 0 and row > node.start_point[0] else row


def _lines_outside(line_no: Ints, hidden: Sequence[tuple[int, int]]) -> Ints:
    """Return the numbers of lines outside of all spans of rows."""
    spans = [(first + 1, last + 1) for first, last in hidden if first <= last]
    starts, ends = (np.sort(np.array([span[i] for span in spans], np.int64)) for i in (0, 1))
    n_open = np.searchsorted(starts, line_no, side="right") - np.searchsorted(ends, line_no, side="left")
    return np.asarray(line_no[n_open == 0])
