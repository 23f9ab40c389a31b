"""model: base model and grown tokenizer to the folder that training starts from."""

from pathlib import Path
from typing import Any

import torch

from commbert.artifacts import atomic_folder, read_json
from commbert.errors import ModelError
from commbert.nn.model import grow_embeddings, load_bert, missing_parts, save_for_others
from commbert.provenance import digest_of_files
from commbert.settings.model import ModelSettings
from commbert.tokenization.encoding import encode_words, load_tokenizer


def run(settings: ModelSettings, *, base: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    """Load the base model, append a row for every new token, and save it whole."""
    drawn = missing_parts(base)
    model = load_bert(base, seed=settings.seed)
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{base}/model.safetensors: {name} holds values that are no numbers. Fetch the model again."
            )
    new_words: list[str] = read_json(tokenizer / "new_words.json")
    pieces = encode_words(load_tokenizer(base), new_words)
    grow_embeddings(model, pieces, init=settings.embedding_init, seed=settings.seed)
    inputs = digest_of_files([base / "model.safetensors", tokenizer / "tokenizer.json"])
    summary = {
        "parameters": sum(t.numel() for t in model.state_dict().values()),
        "vocabulary": model.config.vocab_size,
        "new_rows": len(new_words),
        "parts_drawn_anew": drawn,
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
    }
    about = {"settings": settings.model_dump(mode="json"), "inputs": inputs, "summary": summary}
    with atomic_folder(out, about=about) as tmp:
        save_for_others(model, tokenizer, tmp, pooling=settings.pooling)
    return summary
