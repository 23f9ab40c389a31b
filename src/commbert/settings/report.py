"""Settings of the stage ``report``."""

from pydantic import model_validator

from commbert.settings.base import Name, Section


class ReportSettings(Section):
    """What the report compares."""

    compare_with: tuple[Name, ...] = ("base",)
    """Columns beside the run: ``base`` (the untouched base model) or names of other runs."""

    @model_validator(mode="after")
    def _no_column_twice(self) -> "ReportSettings":
        if len(set(self.compare_with)) != len(self.compare_with):
            raise ValueError("a column stands twice")
        return self
