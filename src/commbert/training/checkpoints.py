"""Checkpoints: what a training needs to go on as if it had never stopped, written whole, found again, checked.

Order, masks and dropout are functions of the step, so a checkpoint is model, optimizer, step, and what was best so far.
It lies in a folder named after the run's identity (settings, data, tokenizer, start weights): other settings find
other checkpoints, and going back to the old settings finds the old ones.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from commbert.artifacts import (
    atomic_folder,
    read_json,
    remove_leftovers,
    verify_folder,
    write_json,
)
from commbert.errors import ArtifactError, TrainingError
from commbert.provenance import digest
from commbert.training.locking import locked


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint that was found and verified."""

    folder: Path
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one identity, below the run's ``checkpoint`` folder."""

    def __init__(self, root: Path, identity: dict[str, Any]) -> None:
        self.root = root
        self.identity = identity
        self.name = digest(json.dumps(identity, sort_keys=True))
        self.folder = root / self.name
        self.metrics = self.folder / "metrics.jsonl"

    def best(self, step: int) -> Path:
        """Return the folder of the weights that were best at a step."""
        return self.folder / f"best-{step:08d}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second trainer out of the folder for as long as this process lives.

        Raises:
            TrainingError: If another process holds it.
        """
        with locked(self.root):
            self.folder.mkdir(exist_ok=True)
            yield

    def prepare(self) -> list[str]:
        """Make the folder ready; return one line for each checkpoint that is refused because it is of other settings.

        It is left where it is: going back to its settings goes on from it.
        """
        remove_leftovers(self.folder)
        identity_file = self.folder / "identity.json"
        if not identity_file.is_file():
            write_json(identity_file, self.identity)
        refused = []
        for other in sorted(self.root.glob("*/identity.json")):
            steps = sorted(other.parent.glob("step-*"))
            if other.parent != self.folder and steps:
                try:
                    keys = ", ".join(_differences(read_json(other), self.identity))
                except ArtifactError as error:
                    keys = f"what nobody can say: {error}"
                refused.append(f"{steps[-1]}: not resumed, it differs in {keys}")
        return refused

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest complete checkpoint, and why newer ones were passed over."""
        skipped: list[str] = []
        for folder in sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True):
            try:
                return self.checkpoint(int(folder.name.removeprefix("step-"))), skipped
            except ArtifactError as error:
                skipped.append(str(error))
        return None, skipped

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, verified with the best weights that it names and its metrics.

        Raises:
            ArtifactError: If it is damaged or not there.
        """
        folder = self._of_step(step)
        verify_folder(folder)
        found = Checkpoint(folder, read_json(folder / "state.json"))
        best_step, n_bytes = found.state.get("best_step"), found.state.get("metrics_bytes", 0)
        if best_step is not None:
            verify_folder(self.best(best_step))
        if n_bytes and (not self.metrics.is_file() or self.metrics.stat().st_size < n_bytes):
            raise ArtifactError(f"{folder}: {self.metrics} has lost rows that were written before it.")
        return found

    def _of_step(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(self, weights: dict[str, Tensor], moments: dict[str, Tensor], state: dict[str, Any], *, keep: int) -> Path:
        """Write the checkpoint of ``state["step"]`` whole, then remove the oldest ones beyond ``keep``."""
        target = self._of_step(state["step"])
        with atomic_folder(target, about={"identity": self.name}) as tmp:
            save_file(weights, str(tmp / "model.safetensors"))
            save_file(moments, str(tmp / "optimizer.safetensors"))
            write_json(tmp / "state.json", state)
        for old in sorted(self.folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)
        # Weights that were best stay for as long as a checkpoint names them: a restart from an older one finds its own.
        named = {self.best(step) for step in map(_best_step, self.folder.glob("step-*")) if step is not None}
        for folder in self.folder.glob("best-*"):
            if folder not in named:
                shutil.rmtree(folder)
        return target

    def tensors(
        self, checkpoint: Checkpoint, shapes: dict[str, torch.Size]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the checkpoint's weights and the optimizer's moments.

        Raises:
            TrainingError: If a tensor is missing or of another shape than the model's.
        """
        weights = load_file(str(checkpoint.folder / "model.safetensors"))
        if weights.keys() != shapes.keys():
            raise TrainingError(
                f"{checkpoint.folder}: the checkpoint holds other parameters than the model. Delete it."
            )
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise TrainingError(
                    f"{checkpoint.folder}: {name}: expected shape {tuple(shape)}, "
                    f"found {tuple(weights[name].shape)}. Delete the checkpoint."
                )
        return weights, load_file(str(checkpoint.folder / "optimizer.safetensors"))

    def forget_others(self) -> None:
        """Remove the checkpoints of other identities."""
        for other in self.root.glob("*/identity.json"):
            if other.parent != self.folder:
                shutil.rmtree(other.parent)


def _best_step(checkpoint: Path) -> int | None:
    """Return the step whose weights a checkpoint calls best; None for a damaged one, which nobody goes on from."""
    try:
        step: int | None = read_json(checkpoint / "state.json").get("best_step")
    except ArtifactError:
        return None
    return step


def _differences(a: Any, b: Any, at: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        found: list[str] = []
        for key in sorted({*a, *b}):
            found += _differences(a.get(key), b.get(key), f"{at}.{key}" if at else key)
        return found
    return [] if a == b else [at]
