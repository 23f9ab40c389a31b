"""Settings of the stage ``report``."""

from pydantic import model_validator

from commbert.settings.base import Name, Section


class ReportSettings(Section):
    """What the report compares."""

    compare_with: tuple[Name, ...] = ("base",)
    """Columns beside the run: ``base`` (the untouched base model) or names of other runs."""
    telling_words: tuple[str, ...] = ()
    """Words whose nearest neighbours are printed before and after; empty = the most frequent ones of the code that
    English does not have."""

    @model_validator(mode="after")
    def _no_column_twice(self) -> "ReportSettings":
        if len(set(self.compare_with)) != len(self.compare_with):
            raise ValueError("a column stands twice")
        return self
