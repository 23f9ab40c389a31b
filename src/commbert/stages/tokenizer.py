"""tokenizer: base vocabulary and corpus to a grown tokenizer, its receipts, and the words with their token ids."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from commbert import tables
from commbert.artifacts import atomic_folder, read_json, write_json
from commbert.corpus.reading import total_counts
from commbert.provenance import digest, digest_of_files
from commbert.settings.tokenizer import TokenizerSettings
from commbert.tokenization.encoding import WordPieces, load_tokenizer
from commbert.tokenization.extension import check_extension, choose_words, receipts, write_tokenizer
from commbert.tokenization.lexing import Lexer


def run(
    settings: TokenizerSettings,
    *,
    base: Path,
    files: Path,
    shards: Path,
    folders: Mapping[str, Path],
    corpus_words: Path,
    english: Path,
    tokenizer_out: Path,
    words_out: Path,
    receipts_out: Path,
) -> dict[str, Any]:
    """Grow the tokenizer and prove it.

    Args:
        settings: The section ``tokenizer``.
        base: Folder of the base model.
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
    """
    before = load_tokenizer(base)
    counts = total_counts(files, shards, folders, "pretoken")
    new_words = choose_words(before, counts, settings) if settings.mode == "extend" else []
    english_words: list[str] = read_json(english)
    inputs = digest_of_files([base / "tokenizer.json", files])
    with atomic_folder(tokenizer_out, about={"settings": settings.model_dump(mode="json"), "inputs": inputs}) as tmp:
        write_tokenizer(base, tmp, new_words)
        after = load_tokenizer(tmp)
        check_extension(before, after, new_words)
        (tmp / "new_words.json").write_text(json.dumps(new_words, indent=0) + "\n", encoding="utf-8")
    of_base = WordPieces(before)
    pieces = of_base, WordPieces(after) if new_words else of_base
    found = receipts(before, after, *pieces, new_words=new_words, counts=counts, english=english_words)
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest(inputs, digest_of_files([corpus_words, english])),
    }
    columns = _word_columns(corpus_words, english_words, Lexer(after), *pieces)
    found["words"] = tables.write(words_out, tables.WORDS, columns, provenance=provenance)
    write_json(receipts_out, found)
    return found


def _word_columns(
    corpus_words: Path, english: list[str], lexer: Lexer, before: WordPieces, after: WordPieces
) -> dict[str, Any]:
    """Return the words of the code, then the English words that it lacks, with their token ids."""
    code = pl.DataFrame(tables.read(corpus_words, tables.CORPUS_WORDS))
    only_english = pl.Series("word", english, pl.String).filter(
        ~pl.Series(english, dtype=pl.String).is_in(code["word"])
    )
    rest = pl.DataFrame({"word": only_english}).with_columns(
        n_lines=pl.lit(0, pl.UInt64), n_files=pl.lit(0, pl.UInt32), in_english=pl.lit(True)
    )
    words = pl.concat([code.select(rest.columns), rest])
    lexed = lexer.lex(words["word"].to_arrow())
    encoded = after.of(lexer.interning.strings).encode(lexed)
    before_offsets = before.of(lexer.interning.strings).encode(lexed).offsets
    kind = tables.WORDS.schema.field("token_ids").type
    return {
        "word_id": np.arange(len(words), dtype=np.uint32),
        **{name: words[name].to_arrow() for name in ("word", "n_lines", "n_files", "in_english")},
        "token_ids": pa.ListArray.from_arrays(
            pa.array(encoded.offsets.astype(np.int32)), pa.array(encoded.ids), type=kind
        ),
        "n_pieces_before": np.minimum(np.diff(before_offsets), 255).astype(np.uint8),
        "in_code": np.arange(len(words)) < len(code),
    }
