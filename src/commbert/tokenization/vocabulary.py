"""Learning a WordPiece vocabulary from the words of the training split, and the folder that every reader loads.

The merges are those of ``tokenizers``' trainer (Schuster and Nakajima 2012 by way of byte-pair merges, as in BERT's
released tools). Left alone, that trainer numbers ``##`` characters in the order of a hash table, and what is numbered
differently breaks ties differently: three runs of it on one corpus gave three vocabularies. Here each character has its
number before training begins, so counts alone decide.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from commbert.errors import DataError, SettingsError
from commbert.settings.tokenizer import TokenizerSettings
from commbert.text.interning import Interning
from commbert.text.words import LineCodes
from commbert.tokenization.encoding import Pieces
from commbert.tokenization.extension import fertility_of, plain_words, write_config

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""At these places, 0 to 4."""
_UNKNOWN = SPECIALS[1]
_GOES_ON = "##"
_LONGEST = 100
"""Characters of a word; longer ones are [UNK], as in BERT's tokenizer."""
_WORDS_AT_ONCE = 1000
_ROWS_AT_ONCE = 1 << 20
_VISIBLE = [chr(c) for c in range(33, 127)]


def bert_cutter(*, lower_case: bool) -> Tokenizer:
    """Return a tokenizer with BERT's normalizer and pre-tokenizer, and no vocabulary: it cuts lines into pre-tokens."""
    tokenizer = Tokenizer(WordPiece(unk_token=_UNKNOWN, max_input_chars_per_word=_LONGEST))
    # As in BERT's models of this kind: accents go with case, control characters go, each Chinese character is alone.
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def learn_vocabulary(counts: pl.DataFrame, settings: TokenizerSettings) -> list[str]:
    """Return the entries by their ids: special ones, characters, ``##`` characters, then merges, the first made first.

    The result depends on the counts alone: not on the order of the rows, nor on threads.

    Args:
        counts: Distinct pre-tokens (word) with how often each stands in the training split (n).
        settings: The section ``tokenizer``.

    Raises:
        DataError: If the training split holds no word.
        SettingsError: If the characters alone fill the vocabulary.
    """
    counts = counts.filter(pl.col("n") > 0).sort("word")
    if counts.is_empty():
        raise DataError("tokenizer: expected words in the training split, found none. Widen corpus.sources.")
    every = _all_characters(counts)
    known = _chosen_characters(every, settings)
    first = [*SPECIALS, *known["character"], *(_GOES_ON + c for c in known.filter("goes_on")["character"])]
    if len(first) >= settings.vocabulary_size:
        raise SettingsError(
            f"tokenizer.vocabulary_size: expected more than {len(first):,} (the special entries and the characters of "
            f"the corpus), found {settings.vocabulary_size:,}. Raise it or lower max_characters."
        )
    fit = counts.filter(pl.col("word").str.len_chars().is_between(2, _LONGEST))
    unknown = every.filter(~pl.col("character").is_in(known["character"].implode()))["character"].to_list()
    if unknown:
        fit = fit.filter(~pl.col("word").str.contains_any(unknown))  # [UNK] as a whole, whatever pieces there are
    trainer = WordPieceTrainer(
        vocab_size=settings.vocabulary_size,
        min_frequency=settings.min_frequency,
        special_tokens=first,
        continuing_subword_prefix=_GOES_ON,
        show_progress=False,
    )
    tokenizer = Tokenizer(WordPiece(unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(_repeated(fit), trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda entry: ids[entry])


def _repeated(counts: pl.DataFrame) -> Iterator[str]:
    """Yield texts of some words each, every word as often as it stands in the corpus: the trainer takes no counts.

    Exact, in little memory; 20 million words take 8 s of one core.
    """
    waiting, free = [], _WORDS_AT_ONCE
    for word, n in counts.select("word", "n").iter_rows():
        left = n
        while left:
            taken = min(left, free)
            waiting.append(f"{word} " * taken)
            left, free = left - taken, free - taken
            if not free:
                yield "".join(waiting)
                waiting, free = [], _WORDS_AT_ONCE
    if waiting:
        yield "".join(waiting)


def _all_characters(counts: pl.DataFrame) -> pl.DataFrame:
    """Return how often each character stands in the words (n), and whether it ever follows another one (goes_on)."""
    found = [pl.DataFrame(schema={"character": pl.String, "n": pl.UInt64, "goes_on": pl.Boolean})]
    for some in counts.iter_slices(_ROWS_AT_ONCE):
        letters = some.select(
            pl.col("n").cast(pl.UInt64),
            first=pl.col("word").str.slice(0, 1),
            rest=pl.col("word").str.slice(1).str.split(""),
        )
        begins = letters.select("n", character="first", goes_on=pl.lit(value=False))
        goes_on = letters.select("n", character="rest", goes_on=pl.lit(value=True)).explode("character").drop_nulls()
        both = pl.concat([begins, goes_on]).filter(pl.col("character") != "")
        found.append(both.group_by("character").agg(pl.col("n").sum(), pl.col("goes_on").any()))
    total = pl.concat(found).group_by("character").agg(pl.col("n").sum(), pl.col("goes_on").any())
    return total.sort("character")


def _chosen_characters(every: pl.DataFrame, settings: TokenizerSettings) -> pl.DataFrame:
    """Return the characters with entries, in the order of their code points, and which have one behind ``##`` too."""
    ascii_ones = [c for c in _VISIBLE if not (settings.lower_case and c.isupper())]
    # Any identifier can be spelt, whatever letters the training split happens to lack.
    always = pl.DataFrame({"character": ascii_ones, "spelt": [c.isalnum() for c in ascii_ones]})
    every = every.join(always, on="character", how="full", coalesce=True)
    frequent = (
        every.filter(pl.col("spelt").is_null() & (pl.col("n") >= settings.min_frequency))
        .sort([-pl.col("n").cast(pl.Int64), "character"])
        .head(max(0, settings.max_characters - len(ascii_ones)))
    )
    both = pl.concat([every.filter(pl.col("spelt").is_not_null()), frequent])
    known = both.select(
        "character", goes_on=pl.col("goes_on").fill_null(value=False) | pl.col("spelt").fill_null(False)
    )
    return known.sort("character")


def write_vocabulary(entries: Sequence[str], out: Path, *, lower_case: bool) -> None:
    """Fill ``out`` with tokenizer.json, vocab.txt and tokenizer_config.json of BERT's tokenizer with these entries."""
    tokenizer = bert_cutter(lower_case=lower_case)
    ids = {entry: number for number, entry in enumerate(entries)}
    tokenizer.model = WordPiece(ids, unk_token=_UNKNOWN, max_input_chars_per_word=_LONGEST)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix=_GOES_ON)
    tokenizer.add_special_tokens(list(SPECIALS))
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    (out / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8", newline="\n")
    write_config(out, lower_case=lower_case)


def trained_receipts(
    tokenizer: Tokenizer, interning: Interning, pieces: Pieces, *, asked: int, counts: pl.DataFrame
) -> dict[str, Any]:
    """Return what a learnt vocabulary is worth on held-out lines; what compares with a base model's is null.

    Args:
        tokenizer: Has the vocabulary.
        interning: Codes of the pre-tokens.
        pieces: How the tokenizer cuts them.
        asked: ``tokenizer.vocabulary_size``.
        counts: Pre-tokens, with n of the training split and n_heldout of the others.
    """
    codes = interning.codes(counts["word"].to_arrow())
    lengths, n_heldout = np.diff(pieces.offsets)[codes], counts["n_heldout"].to_numpy().astype(np.float64)
    is_unknown = pieces.ids[pieces.offsets[:-1]][codes] == tokenizer.token_to_id(_UNKNOWN)
    n_chars = counts["word"].str.len_chars().to_numpy()
    words, n_entries = plain_words(counts), tokenizer.get_vocab_size()
    trained = np.zeros(n_entries, np.bool_)
    trained[pieces.encode(LineCodes(codes[(counts["n"] > 0).to_numpy()], np.zeros(1, np.int64))).ids] = True
    never = int((~trained[len(SPECIALS) :]).sum())
    by_id = [tokenizer.id_to_token(i) or "" for i in range(len(SPECIALS), n_entries)]
    return {
        "entries_asked": asked,
        "entries_before": None,
        "entries_after": n_entries,
        "entries_added": n_entries,
        "new_rows_never_trained": never,
        "heldout_words": int(n_heldout[words].sum()),
        "fertility": {"before": None, "after": fertility_of(lengths[words], n_heldout[words])},
        "unknown_heldout_pct": 100 * float(n_heldout @ is_unknown) / max(n_heldout.sum(), 1),
        "characters_per_token_heldout": float(n_heldout @ n_chars) / max(float(n_heldout @ lengths), 1),
        "first_words": [entry for entry in by_id if len(entry) > 1 and not entry.startswith(_GOES_ON)][:50],
    }
