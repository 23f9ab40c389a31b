"""release: a run's model and the card with its figures to one folder, as it is given to others."""

import shutil
from pathlib import Path
from typing import Any

from commbert.artifacts import MANIFEST, atomic_folder, read_json, sha256_file, verify_folder
from commbert.errors import ArtifactError

_CARD = "README.md"


def run(*, model: Path, evaluation: Path, card: Path, out: Path) -> dict[str, Any]:
    """Copy the model folder, with the card in place of its own one, which is older than the figures.

    Args:
        model: Folder of the stage ``average``.
        evaluation: What was measured of it (JSON).
        card: The card of the stage ``report``.
        out: Becomes the folder, with a manifest of its own.

    Raises:
        ArtifactError: If the model folder is damaged, or another model was measured.
    """
    about = verify_folder(model)["about"]
    weights, measured = sha256_file(model / "model.safetensors"), read_json(evaluation)["model_sha256"]
    if weights != measured:
        raise ArtifactError(
            f"{evaluation}: expected figures of {model} (sha256 {weights[:16]}), found those of {str(measured)[:16]}. "
            "Evaluate and report again."
        )
    with atomic_folder(out, about=about) as tmp:
        shutil.copytree(model, tmp, ignore=shutil.ignore_patterns(MANIFEST, _CARD), dirs_exist_ok=True)
        shutil.copyfile(card, tmp / _CARD)
    return {"model_sha256": weights}
