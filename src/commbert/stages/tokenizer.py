"""tokenizer: base vocabulary and corpus to a grown tokenizer, or corpus to a new one; its receipts; words as ids."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from commbert import tables
from commbert.artifacts import atomic_folder, read_json, write_json
from commbert.corpus.reading import total_counts
from commbert.errors import SettingsError
from commbert.provenance import digest, digest_of_files
from commbert.settings.tokenizer import TokenizerSettings
from commbert.text.words import LineCodes
from commbert.tokenization.encoding import Pieces, load_tokenizer, pieces_of
from commbert.tokenization.extension import Cut, check_extension, choose_words, receipts, write_tokenizer
from commbert.tokenization.lexing import Lexer
from commbert.tokenization.vocabulary import learn_vocabulary, trained_receipts, write_vocabulary

_WORDS_AT_ONCE = 65_536


def run(
    settings: TokenizerSettings,
    *,
    base: Path | None,
    files: Path,
    shards: Path,
    folders: Mapping[str, Path],
    corpus_words: Path,
    english: Path,
    tokenizer_out: Path,
    words_out: Path,
    receipts_out: Path,
) -> dict[str, Any]:
    """Grow the tokenizer, or learn one, and prove it.

    Args:
        settings: The section ``tokenizer``.
        base: Folder of the base model; None where the vocabulary is learnt.
        files: Table corpus/files.
        shards: The number of files of each shard.
        folders: Folder of the stage ``lex`` of each shard, by its name.
        corpus_words: Table corpus/words.
        english: JSON list of common English words.
        tokenizer_out: Becomes the tokenizer folder.
        words_out: Becomes the table tokenizer/words.
        receipts_out: Becomes the receipts (JSON).

    Raises:
        ModelError: If the base tokenizer is not BERT's, or a gate fails.
        SettingsError: If there is a base where the vocabulary is learnt, or none where it is kept.
    """
    if (base is None) != (settings.mode == "train"):
        expected, given = ("none", "one") if base else ("one", "none")
        raise SettingsError(f"--base: expected {expected} with tokenizer.mode {settings.mode}, found {given}.")
    counts = total_counts(files, shards, folders, "pretoken")
    before = load_tokenizer(base) if base else None
    new_words = choose_words(before, counts, settings) if before and settings.mode == "extend" else []
    english_words: list[str] = read_json(english)
    inputs = digest_of_files([*([base / "tokenizer.json"] if base else []), files])
    with atomic_folder(tokenizer_out, about={"settings": settings.model_dump(mode="json"), "inputs": inputs}) as tmp:
        if base:
            write_tokenizer(base, tmp, new_words)
        else:
            write_vocabulary(learn_vocabulary(counts, settings), tmp, lower_case=settings.lower_case)
        after = load_tokenizer(tmp)
        if before:
            check_extension(before, after, new_words)
        (tmp / "new_words.json").write_text(json.dumps(new_words, indent=0) + "\n", encoding="utf-8")
    words, n_code = _all_words(corpus_words, english_words)
    lexer = Lexer(after)
    lexed = [lexer.lex(some["word"].to_arrow()) for some in words.iter_slices(_WORDS_AT_ONCE)]
    lexer.interning.codes(counts["word"].to_arrow())
    lexer.interning.codes_of(english_words)
    pieces = pieces_of(after, lexer.interning.strings)
    if before:
        old = pieces_of(before, lexer.interning.strings) if new_words else pieces
        cut = Cut(lexer.interning, old, pieces)
        found = receipts(before, after, cut, new_words=new_words, counts=counts, english=english_words)
    else:
        old = None
        found = trained_receipts(after, lexer.interning, pieces, asked=settings.vocabulary_size, counts=counts)
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest(inputs, digest_of_files([corpus_words, english])),
    }
    found["words"] = _write_words(words_out, words, n_code, lexed, (old, pieces), provenance)
    write_json(receipts_out, found)
    return found


def _all_words(corpus_words: Path, english: list[str]) -> tuple[pl.DataFrame, int]:
    """Return the words of the code, then the English words that it lacks; and how many are of the code."""
    code = pl.DataFrame(tables.read(corpus_words, tables.CORPUS_WORDS))
    all_english = pl.Series("word", english, pl.String)
    rest = pl.DataFrame({"word": all_english.filter(~all_english.is_in(code["word"].implode()))}).with_columns(
        n_lines=pl.lit(0, pl.UInt64), n_files=pl.lit(0, pl.UInt32), in_english=pl.lit(True)
    )
    words = pl.concat([code.select(rest.columns), rest])
    return words, len(code)


def _write_words(
    out: Path,
    words: pl.DataFrame,
    n_code: int,
    lexed: Sequence[LineCodes],
    pieces: tuple[Pieces | None, Pieces],
    provenance: dict[str, str],
) -> int:
    before, after = pieces
    with tables.writing(out, tables.WORDS, provenance=provenance) as writer:
        for some, codes in zip(words.iter_slices(_WORDS_AT_ONCE), lexed, strict=True):
            encoded = after.encode(codes)
            n_before = np.diff(before.encode(codes).offsets) if before else np.zeros(len(some), np.int64)
            word_id = np.arange(writer.n_rows, writer.n_rows + len(some), dtype=np.uint32)
            writer.add(
                {
                    "word_id": word_id,
                    **{name: some[name].to_arrow() for name in ("word", "n_lines", "n_files", "in_english")},
                    "token_ids": tables.list_array(tables.WORDS, "token_ids", encoded.ids, encoded.offsets),
                    "n_pieces_before": np.minimum(n_before, 255).astype(np.uint8),
                    "in_code": word_id < n_code,
                }
            )
    return writer.n_rows
