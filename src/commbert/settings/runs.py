"""Training runs: what each changes, and the data that are made anew for it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field

from commbert.settings.base import Section, merged
from commbert.settings.pairs import PairsSettings
from commbert.settings.texts import TextsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.windows import WindowsSettings

S = TypeVar("S", bound=Section)

CHANGEABLE = ("tokenizer", "windows", "pairs", "texts", "model", "training")
"""Sections that a run may change."""


class RunSettings(Section):
    """What one run changes; keys as in the sections of these names."""

    tokenizer: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``tokenizer`` that differ in this run; its tables are made beside the shared ones."""
    windows: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``windows`` that differ in this run."""
    pairs: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``pairs`` that differ in this run; held-out pairs of all runs are those of the section ``pairs``."""
    texts: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``texts`` that differ in this run."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``model`` that differ in this run (not ``base``: one base for all runs)."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``training`` that differ in this run."""
    ablation: bool = False
    """A row of the table that ``snakemake sweep`` builds and nothing else: ``train`` and ``all`` pass it over."""

    def changes(self) -> dict[str, Any]:
        """Return what the run changes, by section."""
        return {key: getattr(self, key) for key in CHANGEABLE if getattr(self, key)}


@dataclass(frozen=True)
class DataSettings:
    """The sections that decide what a run reads."""

    tokenizer: TokenizerSettings
    windows: WindowsSettings
    pairs: PairsSettings
    texts: TextsSettings

    def folder_beside(self, shared: "DataSettings") -> str:
        """Return what stands between ``results`` and the names of the tables: nothing for the shared ones.

        Runs that change the same settings to the same values share their tables.
        """
        changed = [name for name, section in vars(self).items() if section != getattr(shared, name)]
        if not changed:
            return ""
        text = json.dumps([getattr(self, name).model_dump(mode="json") for name in changed], sort_keys=True)
        return f"/variants/{'-'.join(changed)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def overridden(section: S, changes: Mapping[str, Any]) -> S:
    """Return the section with changes laid on it.

    Raises:
        pydantic.ValidationError: If the result breaks the section's rules.
    """
    raw = merged(section.model_dump(mode="json"), dict(changes))
    return type(section).model_validate_json(json.dumps(raw))


def name_and_seed(run: str) -> tuple[str, int | None]:
    """Split ``final@18``, the run ``final`` with another seed of training."""
    name, _, seed = run.partition("@")
    return name, int(seed) if seed else None
