"""Settings of the stage ``report``."""

from pydantic import model_validator

from commbert.settings.base import Name, Section


class ReportSettings(Section):
    """What the report compares."""

    compare_with: tuple[Name, ...] = ("base",)
    """Columns beside the run: ``base`` (the untouched base model) or names of other runs."""
    systems: tuple[Name, ...] = ("frequency", "char_ngrams", "ppmi_svd")
    """Further rows of the table of systems: ``frequency``, ``char_ngrams``, ``ppmi_svd``, or names of other runs."""

    @model_validator(mode="after")
    def _no_column_twice(self) -> "ReportSettings":
        if len({*self.compare_with, *self.systems}) != len(self.compare_with) + len(self.systems):
            raise ValueError("a column or system stands twice")
        return self

    @property
    def beside(self) -> tuple[Name, ...]:
        """All that a run is compared with, columns first."""
        return (*self.compare_with, *self.systems)
