"""Model folders: loading safely by way of transformers, growing, reading vectors, saving for others."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional
from transformers import BertForPreTraining, PreTrainedModel
from transformers.utils import logging as transformers_logging

from commbert.errors import ModelError
from commbert.modelfolder import check_weights
from commbert.nn.encoder import Bert, check_config
from commbert.nn.packing import SpecialIds, TokenSequence, batches_by_length, pack_sequences, pooled

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LAYER = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_in": "intermediate.dense",
    "feed_out": "output.dense",
    "output_norm": "output.LayerNorm",
}
_OUTSIDE = {
    "word_embeddings": "bert.embeddings.word_embeddings",
    "position_embeddings": "bert.embeddings.position_embeddings",
    "segment_embeddings": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
    "mlm_dense": "cls.predictions.transform.dense",
    "mlm_norm": "cls.predictions.transform.LayerNorm",
    "nsp": "cls.seq_relationship",
}


def read_vocabulary(tokenizer_folder: Path) -> dict[str, int]:
    """Return the id of every entry of ``tokenizer.json``.

    Raises:
        ModelError: If there is no vocabulary in it.
    """
    path = tokenizer_folder / "tokenizer.json"
    try:
        vocabulary: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        return {str(entry): int(number) for entry, number in vocabulary.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: expected a tokenizer with a vocabulary, found: {error!r}.") from error


def special_ids(tokenizer_folder: Path) -> SpecialIds:
    """Read the special tokens' ids from ``tokenizer.json``.

    Raises:
        ModelError: If one is missing.
    """
    vocabulary = read_vocabulary(tokenizer_folder)
    missing = [t for t in SPECIALS if t not in vocabulary]
    if missing:
        raise ModelError(
            f"{tokenizer_folder}/tokenizer.json: expected the entries {', '.join(SPECIALS)}, lacks {missing}."
        )
    return SpecialIds(*(vocabulary[t] for t in SPECIALS))


def read_pretrained(kind: type[PreTrainedModel], folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return a model of a folder in float32, and transformers' account of what was missing or did not fit.

    Only local safetensors are read, and no code of the folder is run. A hostile config.json raises nearly anything.
    """
    loaded: Any = kind.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    return loaded[0], loaded[1]


def quiet_transformers() -> None:
    """Let transformers print no advice and no bars of its own."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_transformers(folder: Path, *, seed: int = 0) -> BertForPreTraining:
    """Load encoder, pooler and heads in float32; what the folder lacks is drawn with ``seed``.

    Only local safetensors are read, and no code of the folder is run.

    Raises:
        ModelError: If weights do not fit the config, or encoder weights are missing.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: expected a model folder, found none.")
    check_weights(folder, name=str(folder))
    torch.manual_seed(seed)
    quiet_transformers()
    model: BertForPreTraining
    try:
        model, info = read_pretrained(BertForPreTraining, folder)
    except Exception as error:  # a hostile config.json raises nearly anything
        if "ismatch" in str(error):
            raise ModelError(
                f"{folder}: the weights do not fit the sizes in config.json. Fetch the model again."
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: cannot be loaded as BERT: {type(error).__name__}: {reason}") from error
    lacking = [k for k in info["missing_keys"] if not k.startswith(("cls.", "bert.pooler."))]
    if lacking or info.get("mismatched_keys"):
        raise ModelError(f"{folder}: weights do not fit config.json: {(lacking or list(info['mismatched_keys']))[:3]}.")
    check_config(model.config)
    return model


def load_bert(folder: Path, *, seed: int = 0) -> Bert:
    """Load a folder into our own encoder; see ``load_transformers``."""
    return from_transformers(load_transformers(folder, seed=seed))


def _names(name: str) -> list[str]:
    """Return transformers' names of one of our tensors; several lie in it one after the other."""
    if name == "mlm_bias":
        return ["cls.predictions.bias"]
    if not name.startswith("layers."):
        part, kind = name.rsplit(".", 1)
        return [f"{_OUTSIDE[part]}.{kind}"]
    _, number, rest = name.split(".", 2)
    layer = f"bert.encoder.layer.{number}"
    if rest == "qkv_weight":
        return [f"{layer}.attention.self.{part}.weight" for part in ("query", "key", "value")]
    if rest.endswith("_bias"):
        return [f"{layer}.attention.self.{rest.removesuffix('_bias')}.bias"]
    part, kind = rest.rsplit(".", 1)
    return [f"{layer}.{_LAYER[part]}.{kind}"]


def from_transformers(model: BertForPreTraining) -> Bert:
    """Return our model with the weights of transformers' own."""
    theirs = model.state_dict()
    bert = Bert(model.config).to(model.dtype)
    bert.load_state_dict({n: torch.cat([theirs[t] for t in _names(n)]) for n in bert.state_dict()})
    return bert.train(model.training)


def to_transformers(bert: Bert) -> BertForPreTraining:
    """Return transformers' model with our weights, on the CPU."""
    with torch.device("meta"):
        model = BertForPreTraining(bert.config)
    theirs: dict[str, Tensor] = {}
    for name, value in bert.state_dict().items():
        names = _names(name)
        theirs |= zip(names, value.detach().cpu().chunk(len(names)), strict=True)
    theirs["cls.predictions.decoder.weight"] = theirs[_names("word_embeddings.weight")[0]]
    theirs["cls.predictions.decoder.bias"] = theirs["cls.predictions.bias"]
    torch.nn.Module.to(model.to_empty(device="cpu"), bert.dtype)
    # Buffers of the class are positions and segment ids of its own, made anew.
    positions = torch.arange(bert.config.max_position_embeddings).expand(1, -1)
    model.bert.embeddings.position_ids.copy_(positions)
    model.bert.embeddings.token_type_ids.zero_()
    model.load_state_dict(theirs)
    model.tie_weights()
    return model.train(bert.training)


def missing_parts(folder: Path) -> list[str]:
    """Return which of ``mlm_head``, ``pooler``, ``nsp_head`` a folder lacks."""
    try:
        with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
            keys = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}/model.safetensors: cannot be read: {error}. Fetch the model again.") from error
    parts = {"mlm_head": "cls.predictions.transform.", "pooler": "pooler.dense.", "nsp_head": "cls.seq_relationship."}
    return [name for name, mark in parts.items() if not any(mark in k for k in keys)]


def grow_embeddings(model: Bert, new_pieces: Sequence[Sequence[int]], *, init: str, seed: int) -> None:
    """Append one row per new token to the embeddings (which are the decoder too) and to the decoder's bias.

    Args:
        model: Changed in place.
        new_pieces: Old token ids that each new token replaces.
        init: ``piece_mean``: mean of the pieces' rows and biases; ``normal``: N(0, initializer_range), bias 0.
        seed: Draws the normal rows.
    """
    old, old_bias = model.word_embeddings.weight.detach(), model.mlm_bias.detach()
    n = len(new_pieces)
    if init == "piece_mean":
        rows = [old[list(pieces)].mean(0) for pieces in new_pieces]
        biases = [old_bias[list(pieces)].mean() for pieces in new_pieces]
    else:
        torch.manual_seed(seed)
        rows = [*torch.empty(n, old.shape[1], dtype=old.dtype).normal_(0.0, model.config.initializer_range)]
        biases = [old_bias.new_zeros(())] * n
    model.word_embeddings = torch.nn.Embedding.from_pretrained(torch.stack([*old, *rows]), freeze=False)
    model.mlm_bias = torch.nn.Parameter(torch.stack([*old_bias, *biases]))
    model.config.vocab_size = len(model.mlm_bias)


def text_vectors(
    model: Bert,
    sequences: Sequence[TokenSequence],
    specials: SpecialIds,
    *,
    pooling: str,
    device: torch.device,
    batch_tokens: int = 16384,
    normalize: bool = True,
) -> Float[Tensor, "n h"]:
    """Return the vector of each token sequence, in float32 on the CPU; no gradient, no dropout.

    A sequence longer than the model's positions is cut; ``batch_tokens`` are computed at a time. ``normalize`` scales
    each vector to length 1.
    """
    was_training = model.training
    model.eval()
    limit = model.config.max_position_embeddings - 2
    lengths = np.array([min(len(s), limit) for s in sequences], np.int64)
    out = torch.empty(len(sequences), model.config.hidden_size)
    with torch.inference_mode():
        for rows in batches_by_length(lengths, batch_tokens):
            packed = pack_sequences([sequences[i][:limit] for i in rows], specials).to(device)
            vectors = pooled(model.hidden_states(packed), packed.runs, pooling=pooling).float()
            out[torch.from_numpy(rows)] = (functional.normalize(vectors, dim=-1) if normalize else vectors).cpu()
    model.train(was_training)
    return out


def save_for_others(model: Bert, tokenizer_folder: Path, out: Path, *, pooling: str, card: str | None = None) -> None:
    """Fill ``out`` with a folder that AutoModel, AutoModelForMaskedLM and SentenceTransformer load whole.

    All weights of BertForPreTraining are saved, so that no reader draws a pooler of its own.
    ``card`` becomes README.md.
    """
    to_transformers(model).save_pretrained(str(out))
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
