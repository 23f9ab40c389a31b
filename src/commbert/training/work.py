"""What a step has to compute: tokens, the tokens of a padded batch of the same rows, and floating-point operations.

All counts are those of the whole step, whoever computes which part, and are known to the host before the step begins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import BertConfig

from commbert.settings.training import TrainingSettings

Ints = NDArray[np.int64]
_BACKWARD = 2
"""Products of the backward pass per product of the forward pass: one for each factor's gradient."""


@dataclass(frozen=True)
class StepWork:
    """Counts of a step; arrays have one entry for each micro-batch that holds a sequence."""

    tokens: Ints
    """Of all sequences, with [CLS] and [SEP]."""
    square_lengths: Ints
    """Sum of the squared lengths of the sequences: pairs of tokens that attend to each other."""
    padded_tokens: Ints
    """Sequences times the longest one: what the micro-batch would hold if it were padded."""
    hidden_tokens: Ints
    """Tokens that the decoder predicts."""
    read_tokens: Ints
    """Tokens at which the last layer's output is read."""
    words: Ints
    sentence_pairs: Ints
    """Whose [CLS] is read by the NSP head."""
    n_compared: int
    """Pairs of an anchor and a candidate whose cosine is computed, in both directions if symmetric."""
    trains_head_only: bool
    """The MLM loss has a gradient for its head alone in this step."""


def step_work(
    lengths: Ints,
    edges: Ints,
    *,
    n_windows: int,
    hidden_before: Ints,
    reads_all: bool,
    reads_sentences: bool = False,
    n_compared: int,
    trains_head_only: bool,
) -> StepWork:
    """Count what a step computes.

    Args:
        lengths: [n] tokens of each sequence with [CLS] and [SEP], windows before words.
        edges: [parts + 1] as ``commbert.training.plan.cut`` gives them; parts may be empty.
        n_windows: How many of the sequences are windows.
        hidden_before: [n_windows + 1] hidden tokens in the windows before each one.
        reads_all: All tokens of words are read (mean pooling), not only their [CLS].
        reads_sentences: The [CLS] of windows, which are pairs of sentences, is read too.
        n_compared: Cosines of the pair loss.
        trains_head_only: As in the step's parts.
    """
    starts, stops = edges[:-1], edges[1:]
    is_filled = stops > starts
    starts, stops = starts[is_filled], stops[is_filled]

    def between(before: Ints, most: int = len(lengths)) -> Ints:
        return before[np.minimum(stops, most)] - before[np.minimum(starts, most)]

    ends = _before(lengths)
    is_word = np.arange(len(lengths)) >= n_windows
    longest = np.maximum.reduceat(lengths, starts) if len(starts) else starts
    hidden = between(hidden_before, n_windows)
    words = between(_before(is_word.astype(np.int64)))
    sentences = between(_before((~is_word).astype(np.int64))) if reads_sentences else np.zeros_like(words)
    return StepWork(
        tokens=between(ends),
        square_lengths=between(_before(lengths**2)),
        padded_tokens=(stops - starts) * longest,
        hidden_tokens=hidden,
        read_tokens=hidden + sentences + (between(_before(lengths * is_word)) if reads_all else words),
        words=words,
        sentence_pairs=sentences,
        n_compared=n_compared,
        trains_head_only=trains_head_only,
    )


def step_flop(config: BertConfig, settings: TrainingSettings, work: StepWork) -> int:
    """Return the model's floating-point operations of a step, forward and backward, of all processes together.

    A product of [a, b] and [b, c] is 2abc operations, and its backward pass two such products. With h = hidden size,
    i = feed-forward size, l = layers, V = vocabulary, t = tokens, s = sum of squared lengths, r = tokens read after the
    last layer, p = hidden tokens, the forward pass is::

        query, key, value   l t 2 h 3h
        attention           l s 2 (2h)                       scores, and the sum of values
        its output, FFN     ((l - 1) t + r) 2 (h h + 2 h i)  the last layer only where it is read
        decoder             p 2 (h h + h V)                  only at hidden tokens
        NSP                 q 2 (h h + 2 h)                  pooler and head, for each of q pairs of sentences
        pair loss           the projection's matrices for each word, and 2 h for each cosine

    What is made again in backward to save memory does not count, nor does what is no product. No backward pass through
    the encoder where nothing asks for it: in micro-batches without words while the MLM loss trains its head alone.

    Reference: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B, "model FLOPs", for packed sequences of
    several lengths instead of one.
    """
    h, n_layers = config.hidden_size, config.num_hidden_layers
    everywhere, where_read = 2 * h * 3 * h, 2 * (h * h + 2 * h * config.intermediate_size)
    encoder = n_layers * (everywhere * work.tokens + 4 * h * work.square_lengths)
    encoder += where_read * ((n_layers - 1) * work.tokens + work.read_tokens)
    is_encoder_trained = settings.trainable == "all"
    mlm_reaches_encoder = is_encoder_trained and not work.trains_head_only
    goes_back = is_encoder_trained & ((work.words > 0) | (mlm_reaches_encoder & (work.hidden_tokens > 0)))
    total = int((encoder * np.where(goes_back, 1 + _BACKWARD, 1)).sum())
    # Where it ends at the head, dense needs the gradient of its weight alone, and the decoder that of the features.
    total += int(work.hidden_tokens.sum()) * 2 * h * (h + config.vocab_size) * (1 + (2 if mlm_reaches_encoder else 1))
    total += (
        int(work.sentence_pairs.sum()) * 2 * h * (h * (1 + (2 if mlm_reaches_encoder else 1)) + 2 * (1 + _BACKWARD))
    )
    size, per_word = _projected(h, settings)
    return total + (1 + _BACKWARD) * (int(work.words.sum()) * per_word + 2 * size * work.n_compared)


def _projected(h: int, settings: TrainingSettings) -> tuple[int, int]:
    """Return the size of the vectors that the pair loss compares, and the operations that make one."""
    contrastive = settings.contrastive
    if contrastive.projection == "none":
        return h, 0
    size = contrastive.projection_size or h
    return size, 2 * h * size + (2 * h * h if contrastive.projection == "mlp" else 0)


def _before(values: Ints) -> Ints:
    """Return [n + 1] the sum of what stands before each place."""
    return np.concatenate([[0], np.cumsum(values)])
