"""A model folder that is ready to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from commbert.artifacts import MANIFEST, read_json
from commbert.errors import DataError, ModelError
from commbert.inference.texts import AskedText
from commbert.modelfolder import check_model_folder
from commbert.nn.devices import choose_device
from commbert.nn.encoder import Bert
from commbert.nn.model import load_bert, missing_parts, special_ids
from commbert.nn.packing import SpecialIds
from commbert.provenance import digest_of_files
from commbert.tokenization.encoding import encode_words, load_tokenizer

_MEAN, _CLS = "pooling_mode_mean_tokens", "pooling_mode_cls_token"


@dataclass(frozen=True)
class AskedModel:
    """An encoder with its tokenizer on a device, in evaluation mode."""

    folder: Path
    bert: Bert
    tokenizer: Tokenizer
    """Encodes text as text: [MASK] in it is six characters."""
    specials: SpecialIds
    device: torch.device

    @cached_property
    def lacks(self) -> tuple[str, ...]:
        """Which of ``mlm_head``, ``pooler``, ``nsp_head`` the folder has no weights for, or random ones.

        Folders of runs are saved whole; their manifest says what was drawn, and what was trained since.
        """
        return tuple(dict.fromkeys([*missing_parts(self.folder), *_drawn_and_untrained(self.folder)]))

    @property
    def most_tokens(self) -> int:
        """Tokens of a text at most, without [CLS] and [SEP]."""
        return int(self.bert.config.max_position_embeddings) - 2

    @cached_property
    def pooling(self) -> str:
        """How the folder makes a text's vector: ``mean`` or ``cls``; mean where it does not say.

        Raises:
            ModelError: If it says another way, such as the maximum over the tokens.
        """
        path = self.folder / "1_Pooling" / "config.json"
        if not path.is_file():
            return "mean"
        config = read_json(path)
        modes = config if isinstance(config, dict) else {}
        asked = [name for name, value in modes.items() if name.startswith("pooling_mode_") and value is True]
        if asked in ([], [_MEAN]):
            return "mean"
        if asked != [_CLS]:
            raise ModelError(
                f"{path}: expected {_MEAN} or {_CLS}, found {', '.join(asked)[:200]!a}. Choose another model."
            )
        return "cls"

    @cached_property
    def digest(self) -> str:
        """What tells this model from others: its weights and its tokenizer."""
        return digest_of_files([self.folder / "model.safetensors", self.folder / "tokenizer.json"])

    def needs(self, part: str, purpose: str) -> None:
        """Refuse a model without a part.

        Raises:
            ModelError: If the folder has no weights for it, so that its answers would be those of a random head.
        """
        if part in self.lacks:
            raise ModelError(
                f"{self.folder}: {purpose} needs a trained {part.replace('_', ' ')}, found none in this folder. "
                "Name a folder that training left (results/runs/NAME/final)."
            )

    def token_ids(self, texts: Sequence[AskedText], *, truncate: bool = False) -> list[list[int]]:
        """Return the token ids of each text, without [CLS] and [SEP].

        Args:
            texts: What is encoded; ``[MASK]`` and the like in it are text.
            truncate: Keep the beginning of a text that is too long, instead of refusing it.

        Raises:
            DataError: If a text has more tokens than the model has positions.
        """
        ids = self.encode([text.text for text in texts])
        return [self.fitting(one, text, truncate=truncate) for one, text in zip(ids, texts, strict=True)]

    def fitting(self, ids: list[int], text: AskedText, *, truncate: bool) -> list[int]:
        """Return ids that the model has positions for: those given, or their beginning.

        Raises:
            DataError: If there are too many, and they may not be cut.
        """
        if len(ids) > self.most_tokens and not truncate:
            raise DataError(
                f"{text.where}: expected at most {self.most_tokens + 2} tokens with [CLS] and [SEP], found "
                f"{len(ids) + 2}. Shorten the text, or keep its beginning with --truncate."
            )
        return ids[: self.most_tokens]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without [CLS] and [SEP]."""
        return encode_words(self.tokenizer, texts)


def _drawn_and_untrained(folder: Path) -> list[str]:
    """Return the parts that a run of ours drew at random and no objective of its training changed."""
    if not (folder / MANIFEST).is_file():
        return []
    about = read_json(folder / MANIFEST)
    drawn = _within(about, "about", "summary", "parts_drawn_anew")
    weights = _within(about, "about", "identity", "settings", "objectives")
    trained = {name for name, weight in weights.items() if weight} if isinstance(weights, dict) else set()
    by = {"mlm_head": {"mlm", "mlm_end"}, "pooler": {"nsp"}, "nsp_head": {"nsp"}}
    return [part for part in by if part in drawn and not by[part] & trained] if isinstance(drawn, list) else []


def _within(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def load_model(folder: Path, *, device: str = "auto") -> AskedModel:
    """Load a BERT folder for asking; only local safetensors are read, and no code of the folder is run.

    Args:
        folder: Holds config.json, model.safetensors, tokenizer.json.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ModelError: If the folder is missing, incomplete, unsafe or no BERT.
        SettingsError: If this machine lacks the device.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: expected a model folder, found none. Train one, or name another with --model.")
    check_model_folder(folder, name=str(folder))
    on = choose_device(device)
    bert = load_bert(folder).eval().to(on)
    tokenizer = load_tokenizer(folder)
    rows = bert.config.vocab_size
    if tokenizer.get_vocab_size() > rows:
        raise ModelError(
            f"{folder}: expected a tokenizer of at most {rows} entries, as the model has embeddings, found "
            f"{tokenizer.get_vocab_size()}. Tokenizer and weights belong to different models."
        )
    return AskedModel(folder, bert, tokenizer, special_ids(folder), on)
