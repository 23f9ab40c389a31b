"""A model folder that is ready to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from commbert.artifacts import MANIFEST, read_json
from commbert.errors import ModelError
from commbert.modelfolder import check_model_folder
from commbert.nn.devices import choose_device
from commbert.nn.encoder import Bert
from commbert.nn.model import load_bert, missing_parts, special_ids
from commbert.nn.packing import SpecialIds
from commbert.tokenization.encoding import encode_words, load_tokenizer


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
        """How the folder makes a text's vector: ``mean`` or ``cls``; mean where it does not say."""
        path = self.folder / "1_Pooling" / "config.json"
        if not path.is_file():
            return "mean"
        config = read_json(path)
        return "cls" if isinstance(config, dict) and config.get("pooling_mode_cls_token") is True else "mean"

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
    by = {"mlm_head": "mlm", "pooler": "nsp", "nsp_head": "nsp"}
    return [part for part in drawn if by.get(part, "") not in trained] if isinstance(drawn, list) else []


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
    return AskedModel(folder, bert, load_tokenizer(folder), special_ids(folder), on)
