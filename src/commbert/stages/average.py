"""average: the start model and what was trained to the folders that users load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commbert.artifacts import atomic_folder, sha256_file, verify_folder
from commbert.errors import ArtifactError, ModelError, SettingsError
from commbert.nn.averaging import averaged
from commbert.nn.model import load_bert, save_for_others
from commbert.reporting.card import render_weights


def run(share: float, *, start: Path, trained: Sequence[Path], out: Sequence[Path]) -> dict[str, Any]:
    """Average the weights of each trained folder with the start model's.

    Args:
        share: ``model.average_with_base``: share of the start weights, 0 to 1; with 0 the weights are those trained.
        start: Folder that training started from.
        trained: Folders that the stage ``train`` left.
        out: Becomes the model folder of each of them.

    Raises:
        SettingsError: If the share is not between 0 and 1, or there is not one output per trained folder.
        ModelError: If training did not start from ``start``.
        ArtifactError: If a trained folder is damaged.
    """
    if len(trained) != len(out):
        raise SettingsError(f"--out: expected one for each --trained ({len(trained)}), found {len(out)}.")
    first, start_sha256 = load_bert(start), sha256_file(start / "model.safetensors")
    weights: dict[str, str] = {}
    for folder, target in zip(trained, out, strict=True):
        about = _about_trained(folder, start, start_sha256)
        average = {
            "share": share,
            "start_sha256": start_sha256,
            "trained_sha256": sha256_file(folder / "model.safetensors"),
        }
        settings = {**about["settings"], "average_with_base": share}
        card = (folder / "README.md").read_text(encoding="utf-8") + render_weights(average)
        model = averaged(first, load_bert(folder), share)
        with atomic_folder(target, about={**about, "settings": settings, "average": average}) as tmp:
            save_for_others(model, folder, tmp, pooling=settings["pooling"], card=card)
        weights[target.name] = sha256_file(target / "model.safetensors")
    return {"share": share, "weights_sha256": weights}


def _about_trained(folder: Path, start: Path, start_sha256: str) -> dict[str, Any]:
    about: dict[str, Any] = verify_folder(folder)["about"]
    try:
        expected, settings = about["identity"]["start_weights"], about["settings"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: expected a folder of the stage train, found another. Train again.") from error
    if not start_sha256.startswith(expected) or not isinstance(settings, dict):
        raise ModelError(
            f"{start}: expected the start model of {folder} (sha256 {expected}), found {start_sha256[:16]}. "
            "Name the folder that this training started from."
        )
    return about
