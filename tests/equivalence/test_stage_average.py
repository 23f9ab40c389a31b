"""What was trained and what training started from, to the folders that users load."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM

import tiny
from commbert.artifacts import read_manifest, sha256_file, verify_folder
from commbert.errors import ArtifactError, ModelError, SettingsError
from commbert.nn.model import load_bert, special_ids, text_vectors
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.training import TrainingSettings
from commbert.stages import average, train
from commbert.tokenization.encoding import encode_words, load_tokenizer

torch.set_num_threads(1)
SETTINGS = TrainingSettings.model_validate(
    {
        "max_steps": 6,
        "batch_windows": 8,
        "batch_pairs": 8,
        "micro_batches": 2,
        "validate_every_steps": 2,
        "validation_windows": 8,
        "validation_pairs": 40,
        "min_gain": 0.9,  # so that best/ is the first validation's and differs from final/
        "optimizer": {"learning_rate": 1.0e-3},
    }
)
NAMES = ("best", "final")
HEAD = ("cls.",)


def train_in(run: Path, stages) -> Path:
    train.run(
        SETTINGS,
        RuntimeSettings(device="cpu"),
        data=stages.data,
        model=stages.start,
        corpus=stages.corpus,
        checkpoints=run / "checkpoint",
        best_out=run / "trained" / "best",
        final_out=run / "trained" / "final",
        metrics_out=run / "metrics.jsonl",
        summary_out=run / "training.json",
    )
    return run / "trained"


@pytest.fixture(scope="module")
def trained(stages, tmp_path_factory) -> Path:
    """The folder ``trained`` of a run, with its best and final model."""
    return train_in(tmp_path_factory.mktemp("runs") / "a run", stages)


def averaged(stages, trained: Path, folder: Path, share: float) -> Path:
    average.run(share, start=stages.start, trained=[trained / n for n in NAMES], out=[folder / n for n in NAMES])
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_share_the_files_are_those_that_training_left_but_for_the_cards_last_section(
    stages, trained, tmp_path, name
):
    found = averaged(stages, trained, tmp_path, 0.0) / name
    before, after = (verify_folder(folder)["files"] for folder in (trained / name, found))
    assert {n for n in {*before, *after} if before.get(n) != after.get(n)} == {"README.md"}
    cards = [(folder / "README.md").read_text() for folder in (trained / name, found)]
    assert cards[1].startswith(cards[0])
    assert "nothing of the start model was averaged in" in cards[1]


def test_best_and_final_differ(trained):
    assert sha256_file(trained / "best/model.safetensors") != sha256_file(trained / "final/model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_a_share_is_averaged_into_encoder_and_embeddings_and_not_into_the_head(stages, trained, tmp_path, name):
    found = weights(averaged(stages, trained, tmp_path, 0.25) / name)
    start, last = weights(stages.start), weights(trained / name)
    for key, weight in found.items():
        expected = last[key] if key.startswith(HEAD) else 0.75 * last[key] + 0.25 * start[key]
        assert torch.allclose(weight, expected, rtol=1e-6, atol=1e-8), key
    moved = {k for k in found if not torch.equal(found[k], last[k])}
    assert "bert.embeddings.word_embeddings.weight" in moved
    assert not any(k.startswith(HEAD) for k in moved)


def test_the_whole_share_has_the_word_vectors_of_the_start_model(stages, trained, tmp_path):
    found = averaged(stages, trained, tmp_path, 1.0) / "final"
    start = weights(stages.start)
    assert all(torch.equal(w, start[k]) for k, w in weights(found).items() if not k.startswith(HEAD))


def test_the_folder_loads_in_other_libraries_and_gives_our_vectors(stages, trained, tmp_path):
    folder = averaged(stages, trained, tmp_path, 0.5) / "final"
    words = ["harq", "pdcch_index", "the"]
    sequences = encode_words(load_tokenizer(folder), words)
    ours = text_vectors(
        load_bert(folder), sequences, special_ids(folder), pooling="mean", device=torch.device("cpu")
    ).numpy()
    assert np.abs(SentenceTransformer(str(folder), device="cpu").encode(words) - ours).max() < 1e-5
    _, info = AutoModelForMaskedLM.from_pretrained(str(folder), output_loading_info=True)
    assert not info["missing_keys"]


def test_manifest_and_card_say_the_share_and_whose_weights_these_are(stages, trained, tmp_path):
    folder = averaged(stages, trained, tmp_path, 0.25) / "best"
    about, before = (read_manifest(f)["about"] for f in (folder, trained / "best"))
    digests = [sha256_file(f / "model.safetensors") for f in (stages.start, trained / "best")]
    assert about["average"] == {"share": 0.25, "start_sha256": digests[0], "trained_sha256": digests[1]}
    assert about["settings"] == {**before["settings"], "average_with_base": 0.25}
    assert {k: about[k] for k in before if k != "settings"} == {k: before[k] for k in before if k != "settings"}
    card = (folder / "README.md").read_text()
    assert "A share of 0.25 is the start model's" in card
    assert all(d in card for d in digests)


def test_the_card_names_the_run(trained):
    assert "# a run: embeddings" in (trained / "final/README.md").read_text()


def test_training_removes_what_a_killed_writer_left_in_either_folder(stages, tmp_path):
    left = [tmp_path / ".metrics.jsonl.tmp-99999", tmp_path / "trained" / ".final.tmp-99999"]
    for folder in left:
        folder.mkdir(parents=True)
    train_in(tmp_path, stages)
    assert not [folder for folder in left if folder.exists()]


def test_another_start_model_than_the_trainings_is_refused(stages, trained, tmp_path):
    other = tiny.write_base_model(tmp_path / "other", with_heads=True, seed=9)
    with pytest.raises(ModelError, match=r"other: expected the start model of .*best \(sha256 [0-9a-f]{16}\), found"):
        average.run(0.5, start=other, trained=[trained / "best"], out=[tmp_path / "out"])
    assert not (tmp_path / "out").exists()


def test_a_damaged_trained_folder_is_refused(stages, trained, tmp_path):
    copy = shutil.copytree(trained / "best", tmp_path / "copy")
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ArtifactError, match="The file is damaged"):
        average.run(0.5, start=stages.start, trained=[copy], out=[tmp_path / "out"])


def test_a_folder_that_no_training_left_is_refused(stages, tmp_path):
    with pytest.raises(ArtifactError, match="expected a folder of the stage train"):
        average.run(0.5, start=stages.start, trained=[stages.start], out=[tmp_path / "out"])


def test_each_trained_folder_needs_its_output(stages, trained, tmp_path):
    with pytest.raises(SettingsError, match=r"--out: expected one for each --trained \(2\), found 1"):
        average.run(0.5, start=stages.start, trained=[trained / n for n in NAMES], out=[tmp_path / "out"])


def test_the_command_averages_one_folder(stages, trained, tmp_path):
    options = {"share": 0.3, "start": stages.start, "trained": trained / "final", "out": tmp_path / "out"}
    command = [
        sys.executable,
        "-m",
        "commbert",
        "average",
        *(x for k, v in options.items() for x in (f"--{k}", str(v))),
    ]
    done = subprocess.run([*command, "--usage", str(tmp_path / "u.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = averaged(stages, trained, tmp_path / "expected", 0.3) / "final"
    assert sha256_file(tmp_path / "out/model.safetensors") == sha256_file(expected / "model.safetensors")
    assert json.loads((tmp_path / "u.json").read_text())["stage"] == "average"
