"""A BERT encoder with a head for classes or a score: from a folder, and to a folder that others load."""

import shutil
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from commbert.errors import ModelError
from commbert.modelfolder import FILES, check_model_folder, check_weights
from commbert.nn.encoder import check_config
from commbert.nn.model import quiet_transformers, read_pretrained

_COPIED = tuple(name for name in FILES if name not in ("config.json", "model.safetensors"))


def check_encoder_folder(folder: Path) -> int:
    """Return the positions of the encoder in a folder, the most tokens that it reads.

    Raises:
        ModelError: If the folder is missing, incomplete, unsafe, or no BERT.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: expected a model folder, found none. Train one, or name another with --model.")
    sizes = check_model_folder(folder, name=str(folder))
    check_weights(folder, name=str(folder))
    return int(sizes["max_position_embeddings"])


def load_with_head(
    folder: Path, classes: tuple[str, ...], *, score_name: str, seed: int
) -> BertForSequenceClassification:
    """Load a folder's encoder in float32 under a head that is drawn with ``seed``, also where the folder has one.

    Only local safetensors are read, and no code of the folder is run. What the folder lacks of the pooler is drawn too.

    Args:
        folder: config.json, model.safetensors, tokenizer.json of a BERT.
        classes: Names in the order of the logits; none: one number, the score.
        score_name: What the number is called.
        seed: Draws what is new.

    Raises:
        ModelError: If the folder is missing, incomplete, unsafe, or no BERT.
    """
    check_encoder_folder(folder)
    quiet_transformers()
    torch.manual_seed(seed)
    names = dict(enumerate(classes or (score_name,)))
    try:
        config = BertConfig.from_pretrained(str(folder), local_files_only=True)
        check_config(config)
        config.id2label, config.label2id = names, {name: i for i, name in names.items()}
        config.problem_type = "single_label_classification" if classes else "regression"
        config.tie_word_embeddings = True  # a head for classes has no decoder of its own
        model = BertForSequenceClassification(config)
        encoder, info = read_pretrained(BertModel, folder)
    except ModelError:
        raise
    except Exception as error:  # a hostile config.json raises nearly anything
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: cannot be loaded as BERT: {type(error).__name__}: {reason}") from error
    lacking = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    if lacking or info.get("mismatched_keys"):
        raise ModelError(f"{folder}: weights do not fit config.json: {(lacking or list(info['mismatched_keys']))[:3]}.")
    model.bert = encoder
    return model


def with_scale(model: BertForSequenceClassification, *, mean: float, deviation: float) -> None:
    """Let a scorer that was trained on (score - mean) / deviation give scores: the scale goes into its last layer."""
    with torch.no_grad():
        model.classifier.weight.mul_(deviation)
        model.classifier.bias.mul_(deviation).add_(mean)


def save_with_head(model: BertForSequenceClassification, tokenizer_folder: Path, out: Path, *, card: str) -> None:
    """Fill ``out`` with a folder that AutoModelForSequenceClassification and a pipeline load: no pickle, no code."""
    model.save_pretrained(str(out))
    for name in _COPIED:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, out / name)
    (out / "README.md").write_text(card, encoding="utf-8")
