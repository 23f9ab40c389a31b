"""Settings of the stages ``fetch`` and ``ingest``."""

import re
from typing import Annotated, Literal, Self

import pathspec
from pydantic import Field, StringConstraints, field_validator, model_validator

from commbert.settings.addresses import check_address
from commbert.settings.base import Digest, Fraction, Name, Section, Seed, Sha256


class _Source(Section):
    name: Name
    """Name of the source in tables and reports; unique."""
    license: str = "unknown"
    """Licence of the text (an SPDX name where there is one); printed in the report and the model card."""
    include: Annotated[tuple[str, ...], Field(min_length=1)] = ("**",)
    """Patterns of paths inside the source that are read; ``**`` stands for any number of folders."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths that are left out, after ``include``."""
    shards: Annotated[int, Field(ge=1, le=4096)] = 1
    """Into how many jobs the source is dealt; about one per million lines. It changes no result."""
    shard_by: Literal["directory", "file"] = "directory"
    """What is dealt: ``directory`` keeps the files of a folder together, so that a new one reruns one shard; ``file``
    for sources with few, large folders."""

    @property
    def shard_names(self) -> tuple[str, ...]:
        """Name of each shard, in order."""
        return tuple(f"{self.name}-{i:05d}-of-{self.shards:05d}" for i in range(self.shards))

    @property
    def fetched_to(self) -> tuple[str, ...]:
        """Name of the file or folder that the source is fetched to; none if it lies on this machine."""
        return ()

    def to_fetch(self) -> Self:
        """Return the source without what fetching it does not depend on."""
        plain = {name: _Source.model_fields[name].default for name in _Source.model_fields if name != "name"}
        return self.model_copy(update=plain)

    @field_validator("include", "exclude")
    @classmethod
    def _patterns_are_readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not pattern.strip() or pattern.startswith("#"):
                raise ValueError(f"{pattern!r} selects nothing: it is blank or a comment, as in .gitignore")
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

    @property
    def fetched_to(self) -> tuple[str, ...]:
        """Name of the wheel."""
        return (f"{self.name}.whl",)


class PathSource(_Source):
    """Files that lie on this machine."""

    kind: Literal["path"]
    """What the source is."""
    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, or a glob pattern; relative to the working folder."""
    digest: Digest | None = None
    """Digest of the files that are read, as in the report's table of sources; others are refused. null = not pinned."""


class GitSource(_Source):
    """One commit of a git repository, read from its object store: no checkout, no hooks, no submodules."""

    kind: Literal["git"]
    """What the source is."""
    url: Annotated[str, Field(min_length=1)]
    """Address of the repository; its protocol and host must be among ``corpus.git``."""
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    """The commit, 40 hexadecimal digits."""

    @property
    def fetched_to(self) -> tuple[str, ...]:
        """Name of the folder with the repository's objects."""
        return (f"{self.name}.git",)


class ArchiveSource(_Source):
    """A tar archive (plain, gzip, xz, zstd) or a zip archive, read as a stream and never extracted."""

    kind: Literal["archive"]
    """What the source is."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """A file on this machine; either this or ``url``."""
    url: str | None = None
    """Address to fetch it from: http or https, without user, password and query, for reports name it."""
    sha256: Sha256
    """Digest of the archive; another file is refused."""

    @property
    def fetched_to(self) -> tuple[str, ...]:
        """Name of the archive, if it has an address."""
        return (f"{self.name}.archive",) if self.url is not None else ()

    @field_validator("url")
    @classmethod
    def _url_tells_no_secret(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s'\"<>{}?#@\\]+", value):
            raise ValueError(
                "expected an http or https address without user, password, query and blanks. "
                "What needs more is fetched elsewhere and named by path."
            )
        return value

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("expected either path or url")
        return self


class TableSource(_Source):
    """Rows of a CSV, JSON-lines or Parquet file, each made a text of its own by a template."""

    kind: Literal["table"]
    """What the source is."""
    path: Annotated[str, Field(min_length=1)]
    """A .csv, .tsv, .jsonl or .parquet file; relative to the working folder."""
    template: Annotated[str, Field(min_length=1)]
    """Text of a row, with columns in braces: ``"{title}\\n{body}"``; ``{{`` is a brace."""
    split_column: Annotated[str, Field(min_length=1)] | None = None
    """Column that says where each row belongs: train, validation (or valid, dev), test. null = rows are dealt one by
    one, by ``corpus.split``."""
    sha256: Sha256
    """Digest of the file; another file is refused."""


Source = Annotated[WheelSource | PathSource | GitSource | ArchiveSource | TableSource, Field(discriminator="kind")]


class GitRules(Section):
    """Where git sources may come from."""

    protocols: tuple[Literal["https", "ssh", "file"], ...] = ("https",)
    """Protocols that are allowed."""
    hosts: tuple[str, ...] = ("github.com", "gitlab.com", "gitlab.eurecom.fr")
    """Hosts that are allowed; a ``file`` address has none."""


class SplitSettings(Section):
    """How directories, and the rows of tables, are dealt to the splits; rows whose table says it are not dealt."""

    validation: Fraction = 0.10
    """Share of the lines for validation (choice of ``best/`` and of settings)."""
    test: Fraction = 0.15
    """Share of the lines for the reported figures."""
    max_shared_lines: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Directories (rows of tables) stay in one split if two of their files share more than this share of the smaller
    one's distinct lines of 20 characters (10 Chinese ones) or more."""
    seed: Seed = 17
    """Decides which directories and rows are held out."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "SplitSettings":
        if self.validation + self.test >= 0.9:
            raise ValueError(f"validation + test must be below 0.9, found {self.validation + self.test:g}")
        return self


class Cleaning(Section):
    """What is dropped from a source, file by file."""

    max_file_mib: Annotated[float, Field(gt=0, le=1024)] = 4.0
    """Larger files are skipped (MiB): they are tables or generated."""
    max_line_chars: Annotated[int, Field(ge=80, le=65536)] = 2000
    """Longer lines are dropped (characters): 0.1 % of the lines of a code base, 8 % of its characters, all tables. Text
    whose paragraphs are lines needs more."""
    drop_generated: bool = True
    """Skip files that a program wrote, by what their first lines say, and files that are tables of numbers; rows of
    tables are never skipped by it."""
    drop_licence_headers: bool = True
    """Leave out the comment at the head of a file that states its licence; rows of tables have none."""
    redact_secrets: bool = True
    """Replace what looks like a key, token or password by ``********``, everywhere; counted in the report."""


class ShardSettings(Section):
    """What the stage ``ingest`` is told of one shard."""

    source: Source
    """The source that the shard is of."""
    cleaning: Cleaning
    """What is dropped from it."""


class GatheringSettings(Section):
    """What the stage ``corpus`` is told: how the shards become one corpus."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the text comes from."""
    drop_duplicates: bool = True
    """Keep one of several byte-identical files."""
    near_duplicates: Annotated[float, Field(ge=0.5, le=1.0)] | None = 0.9
    """Keep one of several files that share at least this part of their distinct long lines (Jaccard); null = all."""
    split: SplitSettings = SplitSettings()
    """Train, validation, test: by directory, tables by row."""


class CorpusSettings(Cleaning, GatheringSettings):
    """What is read, and what is dropped from it."""

    git: GitRules = GitRules()
    """Where git sources may come from."""

    @model_validator(mode="after")
    def _addresses_are_allowed(self) -> "CorpusSettings":
        for number, source in enumerate(self.sources):
            if isinstance(source, GitSource):
                try:
                    check_address(source.url, self.git.protocols, self.git.hosts)
                except ValueError as error:
                    raise ValueError(f"sources.{number}: {error}") from None
        return self

    @model_validator(mode="after")
    def _source_names_are_unique(self) -> "CorpusSettings":
        names = [s.name for s in self.sources]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"source names must be unique, found twice: {', '.join(twice)}")
        return self

    def shards(self) -> dict[str, tuple[Source, int]]:
        """Return the source and the number of each shard, by its name, in the order of the corpus."""
        return {name: (s, number) for s in self.sources for number, name in enumerate(s.shard_names)}

    def of_shard(self, source: Source) -> ShardSettings:
        """Return what a shard of the source is told: a change of another source is none for it."""
        # The licence is told, and a digest compared, where all shards come together.
        forgotten = {name: None for name in ("digest",) if hasattr(source, name)}
        source = source.model_copy(update={"license": "unknown", **forgotten})
        cleaning = Cleaning(**{n: getattr(self, n) for n in Cleaning.model_fields})
        if isinstance(source, TableSource):
            # "Do not edit" is what a row says, not a mark of the program that wrote a file.
            cleaning = cleaning.model_copy(update={"drop_generated": False, "drop_licence_headers": False})
        return ShardSettings(source=source, cleaning=cleaning)

    def gathering(self) -> GatheringSettings:
        """Return what the gathering of all shards is told."""
        return GatheringSettings(**{n: getattr(self, n) for n in GatheringSettings.model_fields})
