"""Tiny models to ask, with weights that spread what they answer."""

import json
from pathlib import Path

import torch
from transformers import BertForSequenceClassification

import tiny

WORDS = ["harq", "rlc mac", "pdcch [x]", "the scheduler", "beam_index", "number", "a b c d e f g", "ldpc"]


def write_model(folder: Path, *, with_heads: bool = True, seed: int = 0, **changes) -> Path:
    """Write a model of random weights, large enough that its answers differ from each other."""
    return tiny.write_base_model(folder, with_heads=with_heads, seed=seed, **{"initializer_range": 0.4, **changes})


def write_classifier(folder: Path, labels=("good", "bad", "[red]evil\x1b[0m"), *, seed: int = 0, **changes) -> Path:
    """Write a classifier as transformers does."""
    torch.manual_seed(seed)
    named = {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "initializer_range": 0.4}
    model = BertForSequenceClassification(tiny.config(**{**named, **changes}))
    for bias in (model.classifier.bias, model.bert.pooler.dense.bias):
        torch.nn.init.normal_(bias)  # they start as 0, and nothing would show that they are used
    model.save_pretrained(str(folder))
    tiny.write_tokenizer(folder)
    return folder


def write_manifest(folder: Path, *, drawn=("mlm_head",), objectives=None) -> None:
    """Write what training says of a folder; no objectives: it was not trained."""
    about = {"summary": {"parts_drawn_anew": list(drawn)}}
    if objectives is not None:
        about["identity"] = {"settings": {"objectives": objectives}}
    (folder / "manifest.json").write_text(json.dumps({"about": about, "files": {}}))
