"""What stands at [MASK]: the masked language model's distribution over the vocabulary."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from commbert.errors import DataError, ModelError
from commbert.inference.models import AskedModel
from commbert.inference.texts import AskedText, in_chunks, named
from commbert.nn.packing import batches_by_length, pack_sequences

MASK = "[MASK]"
_BATCH_TOKENS = 16384
_MASKS_AT_ONCE = 128
"""Rows of the vocabulary's size in memory at a time: 16 MB at 30,522 entries in float32."""
_log = logging.getLogger("commbert")


@dataclass(frozen=True)
class Candidate:
    """An entry of the vocabulary for one [MASK]."""

    token: str
    """As the vocabulary has it: ``##x`` goes on with the word before it."""
    token_id: int
    probability: float


@dataclass(frozen=True)
class FilledText:
    """A text and what fits its masks."""

    text: str
    where: str
    masks: tuple[tuple[Candidate, ...], ...]
    """Of each [MASK], from left to right, the likeliest entries, likeliest first. Each mask is predicted by its own
    distribution, all others still masked: the first of two masks and the first of the other need not fit together."""

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        masks = [[vars(candidate) for candidate in candidates] for candidates in self.masks]
        return {"text": self.text, "where": self.where, "masks": masks}


def fill_mask(
    model: AskedModel, texts: Iterable[str | AskedText], *, top_k: int = 10, truncate: bool = False
) -> Iterator[FilledText]:
    """Predict each [MASK] of each text; texts may be endless, memory stays bounded.

    Probabilities are those of transformers' BertForMaskedLM for the same tokens, in float32.

    Args:
        model: With a trained MLM head; one that was never trained is used with a warning in the log.
        texts: Each with one ``[MASK]`` or more.
        top_k: Candidates of each mask; at most the whole vocabulary is given.
        truncate: Keep the beginning of a text that is too long.

    Raises:
        ModelError: If the model has no MLM head, or gives numbers that are not finite.
        DataError: If a text has no [MASK] or is too long, or its [MASK] is cut off.
    """
    model.needs("mlm_head", f"filling {MASK}")
    if model.bert.config.tie_word_embeddings is False:
        raise ModelError(
            f"{model.folder}: expected an MLM head tied to the word embeddings, as BERT's is, found "
            "tie_word_embeddings false in config.json. Choose another model."
        )
    return (filled for some in in_chunks(named(texts)) for filled in _filled(model, some, top_k, truncate))


def _filled(model: AskedModel, texts: Sequence[AskedText], top_k: int, truncate: bool) -> list[FilledText]:
    sequences = _with_masks(model, texts, truncate)
    lengths = np.array([len(s) for s in sequences], np.int64)
    found: list[FilledText | None] = [None] * len(texts)
    with torch.inference_mode():
        for rows in batches_by_length(lengths, _BATCH_TOKENS):
            packed = pack_sequences([sequences[i] for i in rows], model.specials)
            is_mask = packed.input_ids == model.specials.mask
            hidden = model.bert.hidden_states(packed.to(model.device), is_mask.nonzero()[:, 0].to(model.device))
            candidates = _candidates(model, hidden, top_k)
            for i in rows:
                n_masks = sequences[i].count(model.specials.mask)
                masks = tuple(next(candidates) for _ in range(n_masks))
                found[i] = FilledText(texts[i].text, texts[i].where, masks)
    return [one for one in found if one is not None]


def _with_masks(model: AskedModel, texts: Sequence[AskedText], truncate: bool) -> list[list[int]]:
    """Return the token ids of texts, [MASK] as the one token that it is.

    The tokenizer takes the text as it stands, for ``[MASK]`` in a source line is six characters; so it is given what
    stands between the masks. WordPiece works within words, and a mask ends a word.
    """
    parts = [text.text.split(MASK) for text in texts]
    for text, some in zip(texts, parts, strict=True):
        if len(some) == 1:
            hint = f"Write {MASK} in capital letters." if MASK in text.text.upper() else f"Put {MASK} into the text."
            raise DataError(f"{text.where}: expected a text with {MASK}, found none in {text.text[:60]!a}. {hint}")
    encoded = iter(model.encode([part for some in parts for part in some]))
    sequences = []
    for text, some in zip(texts, parts, strict=True):
        ids = list(next(encoded))
        for _ in some[1:]:
            ids += [model.specials.mask, *next(encoded)]
        n_masks = len(some) - 1
        kept = model.fitting(ids, text, truncate=truncate)
        n_kept = kept.count(model.specials.mask)
        if n_kept < n_masks:
            raise DataError(
                f"{text.where}: expected every {MASK} among the first {model.most_tokens} tokens, found {n_kept} of "
                f"{n_masks} there. Shorten the text before them."
            )
        sequences.append(kept)
    return sequences


def _candidates(model: AskedModel, hidden: Float[Tensor, "m h"], top_k: int) -> Iterator[tuple[Candidate, ...]]:
    for some in hidden.split(_MASKS_AT_ONCE):
        probability = torch.softmax(model.bert.mlm_logits(some).float(), -1)
        if not bool(torch.isfinite(probability).all()):
            raise ModelError(f"{model.folder}: expected finite probabilities, found NaN or infinity. Train it again.")
        best = torch.topk(probability, min(top_k, probability.shape[-1]))
        for values, ids in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            yield tuple(Candidate(_name(model, i), i, p) for p, i in zip(values, ids, strict=True))


def _name(model: AskedModel, token_id: int) -> str:
    """Return a token's name; some models have more rows than their tokenizer has entries."""
    return model.tokenizer.id_to_token(token_id) or f"[no entry {token_id}]"
