"""A labelled table and a tiny encoder, for tests of fine-tuning."""

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tiny
from commbert.settings.finetune import FinetuneSettings
from commbert.settings.runtime import RuntimeSettings

TOPICS = {"beam": ("csi", "ldpc", "dmrs"), "queue": ("grant", "harq", "slot"), "nan": ("time", "people", "water")}
"""Classes, and words that tell them; one class is called nan."""


def settings(**changes: Any) -> FinetuneSettings:
    small = {"epochs": 4, "batch": 8, "learning_rate": 3.0e-3, "max_length": 24, "patience": None, "bootstrap": 100}
    return FinetuneSettings.model_validate({**small, **changes})


def runtime() -> RuntimeSettings:
    return RuntimeSettings(device="cpu")


def texts(n: int = 90, seed: int = 0) -> list[tuple[str, str]]:
    """Return texts of two telling words and one of any class, with their classes."""
    rng = random.Random(seed)
    everything = [w for words in TOPICS.values() for w in words]
    out = []
    for i in range(n):
        name = list(TOPICS)[i % len(TOPICS)]
        words = [*rng.sample(TOPICS[name], 2), rng.choice(everything), str(i)]
        rng.shuffle(words)
        out.append((" ".join(words), name))
    return out


def write(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("text", "label")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n").writerows(
            [header, *rows]
        )
    return path


def base_model(folder: Path) -> Path:
    return tiny.write_base_model(folder, with_heads=True)
