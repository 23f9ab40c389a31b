"""texts: functions with briefs, and acronyms, of the training files to pairs of texts with their token ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import split_of_files
from commbert.provenance import digest, digest_of_files
from commbert.settings.texts import TextsSettings
from commbert.text.names import without_name
from commbert.tokenization.encoding import encode_words, load_tokenizer

_FUNCTION_COLUMNS = ["file_id", "name", "brief", "code"]
_TEXTS_AT_ONCE = 4096


class _Pair(NamedTuple):
    kind: str
    a: str
    b: str


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

    A brief or a code that a held-out file has too, but for case and white space, is in no pair: what is measured there
    was never trained.

    Args:
        settings: The section ``texts``.
        files: Table corpus/files.
        functions: Table corpus/functions.
        acronyms: Table corpus/acronyms; those that training lines define are taken.
        tokenizer: Folder of the grown tokenizer.
        texts_out: Becomes the table texts/texts.
        pairs_out: Becomes the table texts/pairs.
        summary_out: Becomes counts (JSON).
    """
    briefs, n_heldout = _briefs(settings, files, functions) if settings.briefs else ([], 0)
    pairs = sorted({*briefs, *(_acronyms(acronyms) if settings.acronyms else ())})
    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)})
    token_ids = _token_ids(tokenizer, texts, settings.max_tokens)
    # Of nothing but white space or control characters no token is left.
    texts = [text for text in texts if token_ids[text]]
    text_id = {text: number for number, text in enumerate(texts)}
    whole = sorted((p.kind, text_id[p.a], text_id[p.b]) for p in pairs if p.a in text_id and p.b in text_id)
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest_of_files([files, functions, acronyms, tokenizer / "tokenizer.json"]),
    }
    with tables.writing(texts_out, tables.TEXTS, provenance=provenance) as writer:
        for at in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[at : at + _TEXTS_AT_ONCE]
            ids = tables.list_column(tables.TEXTS, "token_ids", [token_ids[text] for text in some])
            writer.add({"text_id": np.arange(at, at + len(some), dtype=np.uint32), "text": some, "token_ids": ids})
    columns = {
        "text_id_a": np.array([a for _, a, _ in whole], np.uint32),
        "text_id_b": np.array([b for _, _, b in whole], np.uint32),
        "kind": [kind for kind, _, _ in whole],
    }
    tables.write(pairs_out, tables.TEXT_PAIRS, columns, provenance=provenance)
    lengths = [len(token_ids[text]) for text in texts]
    summary = {
        "briefs": sum(kind == "brief" for kind, _, _ in whole),
        "acronyms": sum(kind == "acronym" for kind, _, _ in whole),
        "left_out_as_heldout": n_heldout,
        "texts": len(texts),
        "tokens": sum(lengths),
        "cut_texts_pct": 100.0 * sum(n == settings.max_tokens for n in lengths) / max(len(lengths), 1),
        **provenance,
    }
    write_json(summary_out, summary)
    return summary


def _briefs(settings: TextsSettings, files: Path, functions: Path) -> tuple[list[_Pair], int]:
    """Return the pairs of briefs and code of the training split, and how many a held-out file has too."""
    is_train = split_of_files(files) == tables.SPLITS.index("train")
    table = tables.read(functions, tables.FUNCTIONS, _FUNCTION_COLUMNS)
    mine = is_train[table["file_id"].to_numpy()]
    heldout = _normalized(table.filter(~mine).select(["brief", "code"]))
    found: dict[tuple[str, str], str] = {}
    n_heldout = 0
    for name, brief, code in zip(*(table.filter(mine)[c].to_pylist() for c in _FUNCTION_COLUMNS[1:]), strict=True):
        if not (brief and code):
            continue
        if _plain(brief) in heldout or _plain(code) in heldout:
            n_heldout += 1
        else:
            found.setdefault((brief, code), name)
    pairs = [
        _Pair("brief", brief, without_name(code, name) if settings.hide_names else code)
        for (brief, code), name in sorted(found.items())
    ]
    if settings.max_pairs is not None and len(pairs) > settings.max_pairs:
        rng = np.random.default_rng([settings.seed, 0])
        pairs = [pairs[i] for i in rng.choice(len(pairs), settings.max_pairs, replace=False)]
    return pairs, n_heldout


def _normalized(table: Any) -> set[str]:
    return {_plain(text) for column in table.columns for text in column.to_pylist() if text}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _acronyms(path: Path) -> Iterable[_Pair]:
    for row in tables.read(path, tables.ACRONYMS).to_pylist():
        if row["n_train_lines"]:
            yield _Pair("acronym", row["acronym"], row["expansion"])


def _token_ids(folder: Path, texts: Sequence[str], max_tokens: int) -> dict[str, list[int]]:
    tokenizer = load_tokenizer(folder)
    found: dict[str, list[int]] = {}
    for at in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[at : at + _TEXTS_AT_ONCE]
        found |= {text: ids[:max_tokens] for text, ids in zip(some, encode_words(tokenizer, some), strict=True)}
    return found
