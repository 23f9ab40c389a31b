"""A BERT model folder: which files it has, and the checks before anything of it is loaded."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from commbert.errors import ModelError

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""What is taken from a base model; no pickle, no code."""

MAX_CLASSES = 10_000
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
_LAYER = re.compile(r"encoder\.layer\.(\d{1,6})\.")
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
    config = _config(folder, name)
    return {key: config[key] for key in _SIZES}


def check_weights(folder: Path, *, name: str) -> None:
    """Check that the weights have the sizes that config.json says, before anything of these sizes is made.

    Only the header of the weights is read. Else a small folder could ask for any memory, and one with more layers than
    config.json says would lose them silently.

    Raises:
        ModelError: Naming what differs.
    """
    config, shapes = _config(folder, name), _shapes(folder, name)
    n_layers = len({match[1] for key in shapes if (match := _LAYER.match(key))})
    if n_layers != config["num_hidden_layers"]:
        raise _unfit(name, f"{config['num_hidden_layers']} layers", n_layers)
    hidden = config["hidden_size"]
    expected = {
        "embeddings.word_embeddings.weight": config["vocab_size"],
        "embeddings.position_embeddings.weight": config["max_position_embeddings"],
        # As transformers takes it where config.json does not say.
        "embeddings.token_type_embeddings.weight": config.get("type_vocab_size", 2),
    }
    for i in range(n_layers):
        expected[f"encoder.layer.{i}.attention.self.query.weight"] = hidden
        expected[f"encoder.layer.{i}.intermediate.dense.weight"] = config.get("intermediate_size", 3072)
    for key, n_rows in expected.items():
        if shapes.get(key) != [n_rows, hidden]:
            raise _unfit(name, f"{key} of {n_rows} x {hidden}", shapes.get(key, "none"))
    n_classes = config.get("num_labels", 0)
    if isinstance(n_classes, int) and n_classes > MAX_CLASSES:
        raise ModelError(f"{name}/config.json num_labels: expected at most {MAX_CLASSES:,}, found {n_classes:,}.")


def _shapes(folder: Path, name: str) -> dict[str, list[int]]:
    """Return the shape of each tensor, of one file or of all the files that large models are cut into."""
    whole = folder / "model.safetensors"
    found: dict[str, list[int]] = {}
    for path in [whole] if whole.exists() else sorted(folder.glob("model-*.safetensors")) or [whole]:
        try:
            with safe_open(str(path), framework="np") as file:
                keys = file.keys()
                found |= {key.removeprefix("bert."): list(file.get_slice(key).get_shape()) for key in keys}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{name}/{path.name}: cannot be read: {error}. Fetch the model again.") from error
    return found


def _unfit(name: str, expected: str, found: object) -> ModelError:
    return ModelError(
        f"{name}: the weights do not fit the sizes in config.json: expected {expected}, found {found}. "
        "Fetch the model again."
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    """Return config.json of a BERT that asks for no code and says its sizes."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name}/config.json: expected JSON, found: {error}.") from error
    if not isinstance(config, dict) or config.get("model_type") != "bert":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ModelError(f"{name}/config.json: expected model_type bert, found {kind!r}. Choose a BERT model.")
    if "auto_map" in config:
        raise ModelError(f"{name}/config.json: auto_map asks to run code of the model's author; refused.")
    missing = [k for k in _SIZES if type(config.get(k)) is not int or config[k] < 1]
    if missing:
        raise ModelError(f"{name}/config.json: expected whole numbers above 0 for {', '.join(missing)}.")
    return config
