"""Checkpoints of transformers' Trainer: which one to go on from, and that it is whole and of the same settings.

Trainer writes them file by file, so a kill leaves half of one; a seal with the digests of all files is written last,
and only a sealed one is gone on from. Trainer reads its ``.pt`` and ``.pth`` files with ``weights_only``, which runs no
code; ``training_args.bin``, which it never reads, is removed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from commbert.artifacts import (
    MANIFEST,
    read_json,
    remove_leftovers,
    sha256_file,
    verify_folder,
    write_json,
)
from commbert.errors import ArtifactError
from commbert.training.checkpoints import CheckpointStore

_STATE = "trainer_state.json"
_PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Sealed:
    """A whole checkpoint."""

    folder: Path
    state: dict[str, Any]
    """Trainer's own record: step, best step, logs, how often the metric did not gain."""


class TrainerCheckpoints:
    """The checkpoints of one identity, below the run's ``checkpoint`` folder; other settings have another folder."""

    def __init__(self, root: Path, identity: dict[str, Any]) -> None:
        self._store = CheckpointStore(root, identity)
        self.folder = self._store.folder
        self.identity = identity

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second training out of the folder.

        Raises:
            TrainingError: If another process holds it.
        """
        with self._store.lock():
            yield

    def prepare(self) -> list[str]:
        """Make the folder ready; return a line for each checkpoint that is refused because it is of other settings."""
        self._store.prepare()
        remove_leftovers(self.folder)
        refused = []
        for path in sorted(self._store.root.glob("*/identity.json")):
            if path.parent != self.folder and list(path.parent.glob(_PREFIX + "*")):
                try:
                    other = read_json(path)
                    keys = ", ".join(
                        k for k in sorted({*other, *self.identity}) if other.get(k) != self.identity.get(k)
                    )
                except (ArtifactError, TypeError, AttributeError) as error:
                    keys = f"what nobody can say: {error}"
                refused.append(f"{path.parent}: not resumed, it differs in {keys}")
        return refused

    def seal(self, step: int) -> None:
        """Say that the checkpoint of a step is whole."""
        folder = self.of_step(step)
        (folder / "training_args.bin").unlink(missing_ok=True)
        files = {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != MANIFEST}
        write_json(folder / MANIFEST, {"about": {"identity": self._store.name}, "files": files})

    def forget_but(self, *steps: int) -> None:
        """Remove the checkpoints of all other steps."""
        kept = {self.of_step(step) for step in steps}
        for folder in self.folder.glob(_PREFIX + "*"):
            if folder not in kept:
                shutil.rmtree(folder)

    def of_step(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"{_PREFIX}{step}"

    def newest(self) -> tuple[Sealed | None, list[str]]:
        """Return the newest whole checkpoint whose best one is whole too, and why newer ones were removed."""
        removed: list[str] = []
        found = [p for p in self.folder.glob(_PREFIX + "*") if p.name.removeprefix(_PREFIX).isdigit()]
        for folder in sorted(found, key=lambda p: int(p.name.removeprefix(_PREFIX)), reverse=True):
            try:
                return self._sealed(folder), removed
            except ArtifactError as error:
                removed.append(f"{folder}: not whole, removed: {error}")
                shutil.rmtree(folder)
        return None, removed

    def _sealed(self, folder: Path) -> Sealed:
        verify_folder(folder)
        state = read_json(folder / _STATE)
        best = self.of_step(int(state["best_global_step"]))
        if best != folder:
            verify_folder(best)
        return Sealed(folder, state)

    def weights(self, step: int) -> dict[str, Tensor]:
        """Return the weights of the checkpoint of a step.

        Raises:
            ArtifactError: If it is not whole.
        """
        verify_folder(self.of_step(step))
        return load_file(str(self.of_step(step) / "model.safetensors"))

    def forget_others(self) -> None:
        """Remove the checkpoints of other settings."""
        self._store.forget_others()
