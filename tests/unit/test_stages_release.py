"""The stage release: the measured model, with the card that has its figures."""

import json

import pytest

from commbert.artifacts import atomic_folder, sha256_file, verify_folder
from commbert.errors import ArtifactError
from commbert.stages import release


@pytest.fixture
def paths(tmp_path):
    with atomic_folder(tmp_path / "final", about={"step": 7}) as tmp:
        (tmp / "model.safetensors").write_bytes(b"weights")
        (tmp / "README.md").write_text("older than the figures")
        (tmp / "1_Pooling").mkdir()
        (tmp / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "card.md").write_text("AUC 0.644")
    measured = {"model_sha256": sha256_file(tmp_path / "final" / "model.safetensors")}
    (tmp_path / "evaluation.json").write_text(json.dumps(measured))
    names = {"model": "final", "evaluation": "evaluation.json", "card": "card.md", "out": "release"}
    return {key: tmp_path / name for key, name in names.items()}


def test_a_release_is_the_measured_model_with_the_card_of_its_figures(paths):
    before = {p: p.read_bytes() for p in paths["model"].rglob("*") if p.is_file()}
    release.run(**paths)
    verify_folder(paths["out"])
    found = {p.relative_to(paths["out"]).as_posix() for p in paths["out"].rglob("*") if p.is_file()}
    assert found == {"model.safetensors", "README.md", "1_Pooling/config.json", "manifest.json"}
    assert (paths["out"] / "README.md").read_text() == "AUC 0.644"
    assert (paths["out"] / "model.safetensors").read_bytes() == b"weights"
    assert verify_folder(paths["out"])["about"] == {"step": 7}
    assert before == {p: p.read_bytes() for p in paths["model"].rglob("*") if p.is_file()}


def test_figures_of_another_model_are_refused(paths):
    paths["evaluation"].write_text(json.dumps({"model_sha256": "0" * 64}))
    with pytest.raises(ArtifactError, match=r"found those of 0000000000000000\. Evaluate and report again"):
        release.run(**paths)
    assert not paths["out"].exists()


def test_a_damaged_model_is_refused(paths):
    (paths["model"] / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(ArtifactError):
        release.run(**paths)
    assert not paths["out"].exists()
