r"""Templates of rows: ``"{title}\n{body}"``; braces name columns and can do nothing else; a column of splits."""

import difflib
import string
from collections.abc import Collection, Mapping

from commbert.errors import SourceError

SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
"""What a column of splits may say, and which split it is."""


class RowTemplate:
    """A parsed template, and the column of splits where there is one.

    ``str.format`` would reach attributes of what it is given, and pad to any width; here a column's text is put in.

    Raises:
        SourceError: If a brace stands alone, or asks for more than a column.
    """

    def __init__(self, template: str, where: str, split_column: str | None = None) -> None:
        self._split_column = split_column
        self._parts: list[tuple[str, str | None]] = []
        try:
            for literal, column, spec, conversion in string.Formatter().parse(template):
                self._parts.append((literal, column))
                if column is not None and (not column or spec or conversion or set(column) & set(".[]{}")):
                    raise ValueError(f"{{{column}}} with a form, an attribute or no name")
        except ValueError as error:
            raise SourceError(
                f"{where}: template: expected columns as {{name}} and other braces doubled, found: {error}. "
                "Set corpus.sources[].template."
            ) from error
        columns = dict.fromkeys(column for _, column in self._parts if column)
        if not columns:
            raise SourceError(f"{where}: template: expected a column as {{name}}, found none.")
        self.columns = tuple(columns if split_column is None else {**columns, split_column: None})
        """What is read of a row."""

    @classmethod
    def of_column(cls, name: str) -> "RowTemplate":
        """Return the template that is one column, whatever its name: braces and dots in it are those of the name."""
        template = cls("{column}", "")
        template._parts, template.columns = [("", name)], (name,)
        return template

    def filled(self, row: Mapping[str, str]) -> str:
        """Return the text of a row."""
        return "".join(literal + (row[column] if column else "") for literal, column in self._parts)

    def split_of(self, row: Mapping[str, str], where: str) -> str:
        """Return the split that the row says, empty if there is no column for it.

        Raises:
            SourceError: If it says anything but a split.
        """
        if self._split_column is None:
            return ""
        found = row[self._split_column]
        if found not in SPLIT_NAMES:
            names = ", ".join(SPLIT_NAMES)
            raise SourceError(f"{where}: expected {names} in the column {self._split_column!a}, found {found[:80]!a}.")
        return SPLIT_NAMES[found]

    def check_columns(self, present: Collection[str], where: str) -> None:
        """Compare the columns that the template names with those that are there.

        Raises:
            SourceError: If one is missing; the message has the nearest name.
        """
        for column in self.columns:
            if column not in present:
                near = difflib.get_close_matches(column, present, n=1)
                hint = (
                    f"Did you mean {near[0]!a}?" if near else f"There are {', '.join(map(repr, sorted(present)[:10]))}."
                )
                raise SourceError(f"{where}: expected a column {column!a}, found none. {hint}")
