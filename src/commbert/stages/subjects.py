"""What an evaluation is of, and the case of it: a subject opened beside the held-out tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from commbert import tables
from commbert.baselines.vectors import read_vectors
from commbert.corpus.reading import split_of_files
from commbert.errors import DataError
from commbert.evaluation import pairs as ladder
from commbert.evaluation.words import (
    ByFrequency,
    Space,
    Words,
    read_evaluated_words,
    space_of_vectors,
    words_needed,
)
from commbert.known import Keys, read_known
from commbert.nn.devices import choose_device
from commbert.nn.encoder import Bert
from commbert.nn.model import load_bert, special_ids, text_vectors
from commbert.nn.packing import SpecialIds
from commbert.rows import Rows, read_windows
from commbert.settings.evaluation import EvaluationSettings
from commbert.tokenization.encoding import encode_words, load_tokenizer


@dataclass(frozen=True)
class EvaluationPaths:
    """The tables that an evaluation reads; of windows, the lists of their files."""

    files: Path
    line_words: Path
    words: Path
    known: Path
    pairs: Path
    windows: Path
    train_windows: Path
    windows_tokenizer: Path
    functions: Path
    acronyms: Path
    terms: Path
    opposites: Path
    similarity: Path
    general_text: Path


@dataclass(frozen=True)
class ModelSubject:
    """A model folder with its own tokenizer."""

    folder: Path
    pooling: str
    """``mean`` or ``cls``."""
    has_trained_head: bool
    """False: the folder's MLM head was never trained, so MLM is not measured."""
    device: str
    """As in ``runtime.device``."""
    has_trained_nsp: bool = False
    """False: its NSP head was never trained, so NSP is not measured."""


@dataclass(frozen=True)
class VectorsSubject:
    """The table word_vectors of a baseline: it knows words, and no other text."""

    path: Path


@dataclass(frozen=True)
class FrequencySubject:
    """The rule that knows nothing but how frequent a word is."""


Subject = ModelSubject | VectorsSubject | FrequencySubject


@dataclass(frozen=True)
class Network:
    """A loaded model."""

    bert: Bert
    tokenizer: Tokenizer
    specials: SpecialIds
    subject: ModelSubject
    device: torch.device
    most_tokens: int

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return [n, h] unit vectors; longer texts are cut."""
        sequences = [ids[: self.most_tokens] for ids in encode_words(self.tokenizer, list(texts))]
        return text_vectors(self.bert, sequences, self.specials, pooling=self.subject.pooling, device=self.device)


@dataclass(frozen=True)
class Case:
    """What all measurements share."""

    settings: EvaluationSettings
    data: EvaluationPaths
    split: str
    words: Words
    known: Keys
    pairs: ladder.HeldOutPairs
    in_split: NDArray[np.bool_]
    space: Space
    network: Network | None

    @cached_property
    def heldout(self) -> Rows:
        """The windows of the split."""
        return read_windows(self.data.windows)


def open_case(settings: EvaluationSettings, subject: Subject, data: EvaluationPaths, split: str) -> Case:
    """Read the tables of the split, and embed the words that they need.

    Raises:
        DataError: If vectors are of other words.
    """
    words, known = read_evaluated_words(data.words), read_known(data.known)
    pairs = ladder.read_pairs(data.pairs, known)
    network = _opened(subject, settings) if isinstance(subject, ModelSubject) else None
    needed = words_needed(words, *pairs.negative.values(), pairs.anchor, pairs.positive)
    if network is not None:
        space = space_of_vectors(words, network.embed([words.text[i] for i in needed]), needed)
    elif isinstance(subject, VectorsSubject):
        space = _space_of_table(words, data.words, subject.path)
    else:
        space = ByFrequency(words)
    in_split = split_of_files(data.files) == tables.SPLITS.index(split)
    return Case(settings, data, split, words, known, pairs, in_split, space, network)


def _opened(subject: ModelSubject, settings: EvaluationSettings) -> Network:
    device = choose_device(subject.device)
    network, tokenizer = load_bert(subject.folder).to(device), load_tokenizer(subject.folder)
    return Network(network, tokenizer, special_ids(subject.folder), subject, device, settings.text_tokens - 2)


def _space_of_table(words: Words, words_table: Path, path: Path) -> Space:
    if tables.provenance_of(path).get("words") != tables.content_digest(words_table):
        raise DataError(
            f"{path}: expected vectors of the words of {words_table}, found those of others. Make it again."
        )
    vectors, n_words = read_vectors(path), len(words.text)
    if len(vectors) != n_words:
        raise DataError(f"{path}: expected a vector for each of {n_words} words, found {len(vectors)}. Make it again.")
    return space_of_vectors(words, torch.from_numpy(vectors), np.arange(n_words))
