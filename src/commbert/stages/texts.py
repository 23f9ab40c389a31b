"""texts: functions with briefs, and acronyms, of the training files to pairs of texts with their token ids."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import split_of_files
from commbert.errors import DataError
from commbert.provenance import digest, digest_of_files
from commbert.settings.texts import TextsSettings
from commbert.text.names import without_name
from commbert.tokenization.encoding import encode_words, load_tokenizer

_FUNCTION_COLUMNS = ["file_id", "name", "brief", "code"]
_TRAIN = tables.SPLITS.index("train")
_TEXTS_AT_ONCE = 1024


class _Pair(NamedTuple):
    kind: str
    a: str
    b: str


@dataclass
class _Written:
    """What became of the texts."""

    text_id: dict[str, int] = field(default_factory=dict)
    """Of texts of at least one token."""
    n_tokens: int = 0
    n_cut: int = 0


def run(
    settings: TextsSettings,
    *,
    files: Path,
    functions: Path,
    acronyms: Path,
    tokenizer: Path,
    texts_out: Path,
    pairs_out: Path,
    summary_out: Path,
) -> dict[str, Any]:
    """Pair texts that mean the same.

    A brief or a code that a held-out file has too, but for case, white space and the function's own name, is in no
    pair: what is measured there was never trained.

    Args:
        settings: The section ``texts``.
        files: Table corpus/files.
        functions: Table corpus/functions.
        acronyms: Table corpus/acronyms; those that training lines define are taken.
        tokenizer: Folder of the grown tokenizer.
        texts_out: Becomes the table texts/texts.
        pairs_out: Becomes the table texts/pairs.
        summary_out: Becomes counts (JSON).

    Raises:
        DataError: If a table is missing or damaged, or the functions are those of another corpus.
        ModelError: If the tokenizer cannot serve.
    """
    encoder = load_tokenizer(tokenizer)
    briefs, n_heldout = _briefs(settings, files, functions) if settings.briefs else ([], 0)
    pairs = {*briefs, *(_acronyms(acronyms) if settings.acronyms else ())}
    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)})
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest_of_files([files, functions, acronyms, tokenizer / "tokenizer.json"]),
    }
    with tables.writing(texts_out, tables.TEXTS, provenance=provenance) as writer:
        written = _write_texts(writer, encoder, texts, settings.max_tokens)
    ids = written.text_id
    rows = sorted((p.kind, ids[p.a], ids[p.b]) for p in pairs if p.a in ids and p.b in ids)
    columns = {
        "text_id_a": np.array([a for _, a, _ in rows], np.uint32),
        "text_id_b": np.array([b for _, _, b in rows], np.uint32),
        "kind": [kind for kind, _, _ in rows],
    }
    tables.write(pairs_out, tables.TEXT_PAIRS, columns, provenance=provenance)
    summary = {
        "briefs": sum(kind == "brief" for kind, _, _ in rows),
        "acronyms": sum(kind == "acronym" for kind, _, _ in rows),
        "left_out_as_heldout": n_heldout,
        "texts": len(ids),
        "tokens": written.n_tokens,
        "cut_texts_pct": 100.0 * written.n_cut / max(len(ids), 1),
        **provenance,
    }
    write_json(summary_out, summary)
    return summary


# -- Pairs -------------------------------------------------------------------------------------------------------------


def _briefs(settings: TextsSettings, files: Path, functions: Path) -> tuple[list[_Pair], int]:
    """Return the pairs of briefs and code of the training split, and how many functions a held-out file has too."""
    split = split_of_files(files)
    heldout = {
        key
        for name, brief, code in _functions(functions, split, of_training=False)
        for key in _keys(brief, code, without_name(code, name))
    }
    found: set[_Pair] = set()
    n_heldout = 0
    for name, brief, code in _functions(functions, split, of_training=True):
        if not (brief and code):
            continue
        # Briefs are measured without names: a copy under another name is known too.
        nameless = without_name(code, name)
        if heldout.isdisjoint(_keys(brief, code, nameless)):
            found.add(_Pair("brief", brief, nameless if settings.hide_names else code))
        else:
            n_heldout += 1
    pairs = sorted(found)
    if settings.max_pairs is not None and len(pairs) > settings.max_pairs:
        rng = np.random.default_rng([settings.seed, 0])
        pairs = [pairs[i] for i in rng.choice(len(pairs), settings.max_pairs, replace=False)]
    return pairs, n_heldout


def _functions(path: Path, split: NDArray[np.int8], *, of_training: bool) -> Iterator[tuple[str, str, str]]:
    """Yield name, brief and code of the functions of training files, or of held-out ones."""
    for group in tables.read_groups(path, tables.FUNCTIONS, _FUNCTION_COLUMNS):
        file_id = group["file_id"].to_numpy()
        if len(file_id) and file_id.max() >= len(split):
            raise DataError(
                f"{path}: expected functions of the {len(split)} files of the corpus, found one of file "
                f"{file_id.max()}. Rerun the stage functions."
            )
        of = split[file_id]
        rows = group.filter(of == _TRAIN if of_training else of > _TRAIN)
        yield from zip(*(rows[name].to_pylist() for name in _FUNCTION_COLUMNS[1:]), strict=True)


def _keys(*texts: str) -> set[bytes]:
    """Return a key of each text, equal for texts that differ in case and white space only; blank texts have none."""
    plain = {" ".join(text.casefold().split()) for text in texts}
    return {hashlib.blake2b(text.encode(), digest_size=16).digest() for text in plain if text}


def _acronyms(path: Path) -> Iterator[_Pair]:
    for row in tables.read(path, tables.ACRONYMS).to_pylist():
        if row["n_train_lines"]:
            yield _Pair("acronym", row["acronym"], row["expansion"])


# -- Texts -------------------------------------------------------------------------------------------------------------


def _write_texts(writer: tables.Writer, tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> _Written:
    """Write the rows of texts that have tokens (not of nothing but white space or control characters)."""
    done = _Written()
    for at in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[at : at + _TEXTS_AT_ONCE]
        encoded = [(text, ids) for text, ids in zip(some, encode_words(tokenizer, some), strict=True) if ids]
        first = len(done.text_id)
        done.text_id |= {text: first + i for i, (text, _) in enumerate(encoded)}
        done.n_cut += sum(len(ids) > max_tokens for _, ids in encoded)
        rows = [np.array(ids[:max_tokens], np.int32) for _, ids in encoded]
        done.n_tokens += sum(map(len, rows))
        writer.add(
            {
                "text_id": np.arange(first, first + len(rows), dtype=np.uint32),
                "text": [text for text, _ in encoded],
                "token_ids": tables.list_column(tables.TEXTS, "token_ids", rows),
            }
        )
    return done
