"""A BERT model folder: which files it has, and the checks before anything of it is loaded."""

import json
from pathlib import Path
from typing import Any

from commbert.errors import ModelError

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""What is taken from a base model; no pickle, no code."""

_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def check_model_folder(folder: Path, *, name: str) -> dict[str, Any]:
    """Check that a folder holds a BERT with safe weights and a tokenizer, and return its sizes.

    ``name`` is what messages call the folder: where the user has it, not where it lies for the moment.

    Raises:
        ModelError: Naming what is missing or wrong.
    """
    for needed in _NEEDED:
        if not (folder / needed).is_file():
            raise ModelError(f"{name}: expected {needed}, found none. A base model needs {', '.join(_NEEDED)}.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{name}/config.json: expected JSON, found: {error}.") from error
    if not isinstance(config, dict) or config.get("model_type") != "bert":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ModelError(f"{name}/config.json: expected model_type bert, found {kind!r}. Choose a BERT model.")
    if "auto_map" in config:
        raise ModelError(f"{name}/config.json: auto_map asks to run code of the model's author; refused.")
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
    missing = [k for k in keys if type(config.get(k)) is not int or config[k] < 1]
    if missing:
        raise ModelError(f"{name}/config.json: expected whole numbers above 0 for {', '.join(missing)}.")
    return {k: config[k] for k in keys}
