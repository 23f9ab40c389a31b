"""tokenizer: base vocabulary and corpus to a grown tokenizer, its receipts, and the words with their token ids."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from commbert import tables
from commbert.artifacts import atomic_folder, read_json, write_json
from commbert.corpus.reading import read_lines
from commbert.provenance import digest, digest_of_files
from commbert.settings.tokenizer import TokenizerSettings
from commbert.tokenization.encoding import encode_words, is_lower_case, load_tokenizer
from commbert.tokenization.extension import (
    check_extension,
    choose_words,
    count_pretokens,
    receipts,
    write_tokenizer,
)


def run(
    settings: TokenizerSettings,
    *,
    base: Path,
    files: Path,
    lines: Path,
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
        lines: Table corpus/lines.
        corpus_words: Table corpus/words.
        english: JSON list of common English words.
        tokenizer_out: Becomes the tokenizer folder.
        words_out: Becomes the table tokenizer/words.
        receipts_out: Becomes the receipts (JSON).

    Raises:
        ModelError: If the base tokenizer is not BERT's, or a gate fails.
    """
    before = load_tokenizer(base)
    corpus = read_lines(files, lines, column="text")
    lower = is_lower_case(before)
    train = set(corpus.of("train").tolist())
    rows = [(i, (int(f), t)) for i, (f, t) in enumerate(zip(corpus.file_id, corpus.text, strict=True))]
    counts, n_files = count_pretokens((row for i, row in rows if i in train), lower=lower)
    heldout_counts, _ = count_pretokens((row for i, row in rows if i not in train), lower=lower)
    new_words = choose_words(before, counts, n_files, settings) if settings.mode == "extend" else []
    english_words: list[str] = read_json(english)
    inputs = digest_of_files([base / "tokenizer.json", files, lines])
    with atomic_folder(tokenizer_out, about={"settings": settings.model_dump(mode="json"), "inputs": inputs}) as tmp:
        write_tokenizer(base, tmp, new_words)
        after = load_tokenizer(tmp)
        check_extension(before, after, new_words)
        (tmp / "new_words.json").write_text(json.dumps(new_words, indent=0) + "\n", encoding="utf-8")
    found = receipts(
        before,
        after,
        new_words=new_words,
        counts=counts,
        heldout_counts=heldout_counts,
        english=english_words,
    )
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest(inputs, digest_of_files([corpus_words, english])),
    }
    columns = _word_columns(corpus_words, english_words, before, after)
    found["words"] = tables.write(words_out, tables.WORDS, columns, provenance=provenance)
    write_json(receipts_out, found)
    return found


def _word_columns(corpus_words: Path, english: list[str], before: Tokenizer, after: Tokenizer) -> dict[str, Any]:
    """Return the words of the code, then the English words that it lacks, with their token ids."""
    code = tables.read(corpus_words, tables.CORPUS_WORDS)
    code_words = code["word"].to_pylist()
    present = set(code_words)
    only_english = [w for w in english if w not in present]
    words = code_words + only_english
    pieces_before = [min(len(ids), 255) for ids in encode_words(before, words)]
    return {
        "word_id": list(range(len(words))),
        "word": words,
        "n_lines": code["n_lines"].to_pylist() + [0] * len(only_english),
        "n_files": code["n_files"].to_pylist() + [0] * len(only_english),
        "token_ids": encode_words(after, words),
        "n_pieces_before": pieces_before,
        "in_english": code["in_english"].to_pylist() + [True] * len(only_english),
        "in_code": [True] * len(code_words) + [False] * len(only_english),
    }
