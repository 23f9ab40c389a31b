"""Small things that tests build themselves: a base model folder of kilobytes, a source tree of a few files."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForPreTraining, BertModel

from commbert import tables
from commbert.known import key_columns

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENGLISH = ["the", "of", "and", "house", "water", "number", "return", "value", "index", "table", "people", "time"]
WORDS = ["harq", "pdcch", "rlc", "mac", "dmrs", "ldpc", "scheduler", "bler", "csi", "ue", "slot", "grant", "beam"]


def write_known(path: Path, keys: np.ndarray) -> None:
    """Write the table of known pairs from sorted keys."""
    tables.write(path, tables.KNOWN_PAIRS, key_columns(keys), provenance={})


def vocabulary() -> list[str]:
    """Return a WordPiece vocabulary that can spell any ASCII word."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    symbols = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [*SPECIALS, *letters, *(f"##{c}" for c in letters), *symbols, *ENGLISH, "def", "self", "##er", "##ing"]


def write_tokenizer(folder: Path) -> None:
    """Write the files of a tokenizer, with the truncation and padding that real ones carry."""
    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")


def config(**changes: object) -> BertConfig:
    """Return the configuration of a BERT with two layers of 32."""
    sizes = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    return BertConfig(**{**sizes, **changes})


def write_base_model(folder: Path, *, with_heads: bool = False, seed: int = 0, **changes: object) -> Path:
    """Write a base model folder; without heads it is like most encoders that are published."""
    torch.manual_seed(seed)
    kind = BertForPreTraining if with_heads else BertModel
    kind(config(**changes)).save_pretrained(str(folder))
    write_tokenizer(folder)
    return folder


def source_tree(folder: Path, *, n_directories: int = 6, n_files: int = 2, n_lines: int = 40, seed: int = 0) -> Path:
    """Write Python files whose lines pair domain words by a rule: words of one line share the directory's topic."""
    rng = random.Random(seed)
    for d in range(n_directories):
        for f in range(n_files):
            lines = [f"# file {f} of part {d}", f'"""Part {d}: {WORDS[d % len(WORDS)]} handling."""']
            for i in range(n_lines):
                a, b, c = rng.sample(WORDS, 3)
                lines.append(f"{a}_{d}_{rng.randrange(6)} = {b}_process({c}, {a}_index[{i}])  # {rng.choice(ENGLISH)}")
                if i % 7 == 0:
                    lines.append("")
            path = folder / f"part{d}" / f"module{f}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
