"""BERT with its heads, by way of transformers: loading safely, growing, reading vectors, saving for others."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import BertForPreTraining
from transformers.utils import logging as transformers_logging

from commbert.errors import ModelError

TokenSequence = Sequence[int] | NDArray[np.int64]
"""Token ids of one text, without [CLS] and [SEP]."""

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True)
class Padded:
    """Sequences with [CLS] and [SEP], padded to the longest."""

    input_ids: Int[Tensor, "n l"]
    attention_mask: Int[Tensor, "n l"]


def special_ids(tokenizer_folder: Path) -> SpecialIds:
    """Read the special tokens' ids from ``tokenizer.json``.

    Raises:
        ModelError: If one is missing.
    """
    vocabulary = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    missing = [t for t in SPECIALS if t not in vocabulary]
    if missing:
        raise ModelError(
            f"{tokenizer_folder}/tokenizer.json: expected the entries {', '.join(SPECIALS)}, lacks {missing}."
        )
    return SpecialIds(*(vocabulary[t] for t in SPECIALS))


def load_bert(folder: Path, *, seed: int = 0) -> BertForPreTraining:
    """Load encoder, pooler and heads in float32; what the folder lacks is drawn with ``seed``.

    Only local safetensors are read, and no code of the folder is run.

    Raises:
        ModelError: If weights do not fit the config, or encoder weights are missing.
    """
    torch.manual_seed(seed)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = BertForPreTraining.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # a hostile config.json raises nearly anything
        if "ismatch" in str(error):
            raise ModelError(
                f"{folder}: the weights do not fit the sizes in config.json. Fetch the model again."
            ) from error
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ModelError(f"{folder}: cannot be loaded as BERT: {type(error).__name__}: {reason}") from error
    model: BertForPreTraining = loaded[0]
    info: dict[str, Any] = loaded[1]
    lacking = [k for k in info["missing_keys"] if not k.startswith(("cls.", "bert.pooler."))]
    if lacking or info.get("mismatched_keys"):
        raise ModelError(f"{folder}: weights do not fit config.json: {(lacking or list(info['mismatched_keys']))[:3]}.")
    return model


def missing_parts(folder: Path) -> list[str]:
    """Return which of ``mlm_head``, ``pooler``, ``nsp_head`` a folder lacks."""
    try:
        with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}/model.safetensors: cannot be read: {error}. Fetch the model again.") from error
    parts = {"mlm_head": "cls.predictions.transform.", "pooler": "pooler.dense.", "nsp_head": "cls.seq_relationship."}
    return [name for name, mark in parts.items() if not any(mark in k for k in keys)]


def grow_embeddings(model: BertForPreTraining, new_pieces: Sequence[Sequence[int]], *, init: str, seed: int) -> None:
    """Append one row per new token to the embeddings, the tied decoder and its bias.

    Args:
        model: Changed in place.
        new_pieces: Old token ids that each new token replaces.
        init: ``piece_mean``: mean of the pieces' rows and biases; ``normal``: N(0, initializer_range), bias 0.
        seed: Draws the normal rows.
    """
    n_old = model.config.vocab_size
    torch.manual_seed(seed)
    model.resize_token_embeddings(n_old + len(new_pieces), mean_resizing=False)
    rows: Tensor = model.bert.embeddings.word_embeddings.weight
    bias: Tensor = model.cls.predictions.bias
    with torch.no_grad():
        for i, pieces in enumerate(new_pieces, start=n_old):
            if init == "piece_mean":
                rows[i] = rows[list(pieces)].mean(0)
                bias[i] = bias[list(pieces)].mean()
            else:
                rows[i].normal_(0.0, model.config.initializer_range)
                bias[i] = 0.0
    decoder = model.cls.predictions.decoder
    if decoder.weight is not rows or decoder.bias is not bias:
        raise ModelError("transformers untied the decoder while growing it; this version cannot be used.")


def padded(sequences: Sequence[TokenSequence], specials: SpecialIds, device: torch.device) -> Padded:
    """Put [CLS] and [SEP] around each sequence and pad to the longest."""
    length = max(len(s) for s in sequences) + 2
    ids = torch.full((len(sequences), length), specials.pad, dtype=torch.int64)
    mask = torch.zeros((len(sequences), length), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        n = len(sequence)
        ids[row, 0] = specials.cls
        ids[row, 1 : n + 1] = torch.as_tensor(sequence)
        ids[row, n + 1] = specials.sep
        mask[row, : n + 2] = 1
    return Padded(ids.to(device), mask.to(device))


def hidden_states(model: BertForPreTraining, batch: Padded) -> Float[Tensor, "n l h"]:
    """Return the last layer's hidden states."""
    out: Tensor = model.bert(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return out


def pooled(hidden: Float[Tensor, "n l h"], attention_mask: Int[Tensor, "n l"], *, pooling: str) -> Float[Tensor, "n h"]:
    """Return one vector per sequence: the mean over its tokens ([CLS] and [SEP] with them), or that of [CLS]."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def text_vectors(
    model: BertForPreTraining,
    sequences: Sequence[TokenSequence],
    specials: SpecialIds,
    *,
    pooling: str,
    device: torch.device,
    batch_size: int = 256,
) -> Float[Tensor, "n h"]:
    """Return the vector of each token sequence, in float32 on the CPU, scaled to length 1; no gradient, no dropout.

    Sequences are sorted by length, so little is padded; a sequence longer than the model's positions is cut.
    """
    was_training = model.training
    model.eval()
    limit = model.config.max_position_embeddings - 2
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    out = torch.empty(len(sequences), model.config.hidden_size)
    with torch.inference_mode():
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            batch = padded([sequences[i][:limit] for i in rows], specials, device)
            vectors = pooled(hidden_states(model, batch), batch.attention_mask, pooling=pooling)
            out[rows] = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()
    model.train(was_training)
    return out


def save_for_others(
    model: BertForPreTraining, tokenizer_folder: Path, out: Path, *, pooling: str, card: str | None = None
) -> None:
    """Fill ``out`` with a folder that AutoModel, AutoModelForMaskedLM and SentenceTransformer load whole.

    All weights of BertForPreTraining are saved, so that no reader draws a pooler of its own.
    ``card`` becomes README.md.
    """
    model.save_pretrained(str(out))
    if card is not None:
        (out / "README.md").write_text(card, encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(tokenizer_folder / name, out / name)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    _write_json(out / "modules.json", modules)
    _write_json(
        out / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": model.config.hidden_size,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    (out / "2_Normalize").mkdir()
    longest = min(512, model.config.max_position_embeddings)
    _write_json(out / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
