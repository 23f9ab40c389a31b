"""Masked-language-model figures with fixed masks: always 15 % of the tokens, always hidden by [MASK]."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from commbert.evaluation.scores import Column
from commbert.evaluation.unigram import unigram
from commbert.nn.encoder import Bert
from commbert.nn.measures import MASK_RATE, MlmScores, mlm_scores
from commbert.nn.packing import SpecialIds

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def masked_scores(
    network: Bert,
    tokenizer: Tokenizer,
    specials: SpecialIds,
    windows: Sequence[Ints],
    *,
    clusters: Ints,
    seed: int,
    device: torch.device,
) -> tuple[dict[str, Column], MlmScores]:
    """Hide tokens and score them; also per character and per word, so that tokenizers compare fairly.

    A token that is one of k pieces of a word covers 1/k of the word; ``##`` is no character of it.

    Args:
        network: Has a trained MLM head.
        tokenizer: What cut the windows.
        specials: Ids of the special tokens.
        windows: Token ids without specials.
        clusters: [n_windows] what is resampled.
        seed: Decides which tokens are hidden.
        device: Where to compute.
    """
    found = mlm_scores(network, windows, specials, seed=seed, rate=MASK_RATE, device=device)
    item, cluster, ones = np.arange(len(found.label)), clusters[found.window], np.ones(len(found.label))
    loss = found.loss.astype(np.float64)
    # In the order of the windows hidden tokens stand in the order of their places.
    columns = {
        "mlm_loss": (loss, ones),
        "mlm_top1": ((found.rank < 1).astype(np.float64), ones),
        "mlm_top5": ((found.rank < 5).astype(np.float64), ones),
        "mlm_loss_per_char": (loss, characters(tokenizer, found.label)),
        "mlm_loss_per_word": (loss, _share_of_word(tokenizer, windows, found)),
    }
    return {name: Column(item, cluster, value, weight) for name, (value, weight) in columns.items()}, found


def characters(tokenizer: Tokenizer, ids: Ints) -> Floats:
    """Return how many characters of text each token stands for."""
    return np.array([len((tokenizer.id_to_token(int(i)) or "").removeprefix("##")) for i in ids], np.float64)


def _share_of_word(tokenizer: Tokenizer, windows: Sequence[Ints], found: MlmScores) -> Floats:
    """Return the share of its word that each hidden token is; pieces of one word are told by ``##``."""
    goes_on = np.zeros(tokenizer.get_vocab_size(), np.bool_)
    goes_on[[number for entry, number in tokenizer.get_vocab().items() if entry.startswith("##")]] = True
    ids = np.concatenate([np.asarray(w, np.int64) for w in windows])
    begins = ~goes_on[ids]
    starts = np.cumsum([0, *map(len, windows)])[:-1]
    begins[starts] = True
    word = np.cumsum(begins) - 1
    pieces = np.bincount(word)[word]
    return np.asarray(1.0 / pieces[starts[found.window] + found.place])


def unigram_figures(found: MlmScores, counts: Ints, n_characters: Floats) -> dict[str, float]:
    """Return what the frequency of tokens in the training windows [vocabulary] reaches on the same hidden tokens."""
    rule = unigram(counts)
    loss = -rule.log_probability[found.label]
    return {
        "top1": float((rule.rank[found.label] < 1).mean()),
        "top5": float((rule.rank[found.label] < 5).mean()),
        "loss": float(loss.mean()),
        "loss_per_char": float(loss.sum() / n_characters.sum()),
    }
