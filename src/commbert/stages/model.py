"""model: base model, or sizes alone, and the tokenizer to the folder that training starts from."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForPreTraining

from commbert.artifacts import atomic_folder, read_json
from commbert.errors import ModelError, SettingsError
from commbert.nn.encoder import Bert
from commbert.nn.model import (
    from_transformers,
    grow_embeddings,
    load_bert,
    missing_parts,
    read_vocabulary,
    save_for_others,
    special_ids,
)
from commbert.provenance import digest_of_files
from commbert.settings.model import ModelSettings, ScratchModel
from commbert.tokenization.encoding import encode_words, load_tokenizer

_ALL_PARTS = ("embeddings", "encoder", "mlm_head", "pooler", "nsp_head")


def run(settings: ModelSettings, *, base: Path | None, tokenizer: Path, out: Path) -> dict[str, Any]:
    """Make the start model and save it whole.

    Args:
        settings: The section ``model``.
        base: Folder of the base model, or of the run that this one starts from (``model.start``); a row is appended
            for every entry of the tokenizer that it lacks. None: the model is drawn anew (``kind: scratch``).
        tokenizer: The tokenizer folder.
        out: Becomes the model folder.

    Raises:
        ModelError: If the base holds values that are no numbers, or the tokenizer is not the base's own, grown.
        SettingsError: If there is no base, and no sizes either.
    """
    if base is None:
        model, drawn = _drawn(settings, tokenizer), list(_ALL_PARTS)
        new_rows = model.config.vocab_size
    else:
        drawn, model = missing_parts(base), load_bert(base, seed=settings.seed)
        for name, tensor in model.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"{base}/model.safetensors: {name} holds values that are no numbers. Fetch the model again."
                )
        new_words = _entries_that_lack(base, tokenizer)
        pieces = encode_words(load_tokenizer(base), new_words)
        grow_embeddings(model, pieces, init=settings.embedding_init, seed=settings.seed)
        new_rows = len(new_words)
    inputs = digest_of_files([*([base / "model.safetensors"] if base else []), tokenizer / "tokenizer.json"])
    summary = {
        "parameters": sum(t.numel() for t in model.state_dict().values()),
        "vocabulary": model.config.vocab_size,
        "new_rows": new_rows,
        "parts_drawn_anew": drawn,
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
    }
    about = {"settings": settings.model_dump(mode="json"), "inputs": inputs, "summary": summary}
    with atomic_folder(out, about=about) as tmp:
        save_for_others(model, tokenizer, tmp, pooling=settings.pooling)
        _limit_length(tmp / "tokenizer_config.json", model.config.max_position_embeddings)
    return summary


def _drawn(settings: ModelSettings, tokenizer: Path) -> Bert:
    """Return a BERT with weights drawn as transformers draws them: N(0, initializer_range), biases 0, [PAD]'s row 0."""
    sizes = settings.base
    if not isinstance(sizes, ScratchModel):
        raise SettingsError(f"--base: expected a folder with model.base.kind {sizes.kind}, found none.")
    config = BertConfig(
        vocab_size=len(read_vocabulary(tokenizer)),
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=sizes.positions,
        hidden_act=sizes.activation,
        hidden_dropout_prob=sizes.hidden_dropout,
        attention_probs_dropout_prob=sizes.attention_dropout,
        initializer_range=sizes.initializer_range,
        pad_token_id=special_ids(tokenizer).pad,
    )
    torch.manual_seed(settings.seed)
    return from_transformers(BertForPreTraining(config))


def _entries_that_lack(base: Path, tokenizer: Path) -> list[str]:
    """Return the entries of the tokenizer that the base's own lacks: none for a run that starts from another one."""
    new_words: list[str] = read_json(tokenizer / "new_words.json")
    old, new = read_vocabulary(base), read_vocabulary(tokenizer)
    if old == new:
        return []
    if new != {**old, **{word: len(old) + n for n, word in enumerate(new_words)}}:
        raise ModelError(
            f"{tokenizer}: expected the vocabulary of {base} with words appended, found another one. "
            "Rerun the stages from base on."
        )
    return new_words


def _limit_length(config_file: Path, positions: int) -> None:
    """Tell other readers of the tokenizer how long a text may be, where the model has fewer positions than BERT."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if config.get("model_max_length", 0) > positions:
        config["model_max_length"] = positions
        config_file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
