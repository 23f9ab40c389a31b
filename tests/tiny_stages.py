"""One small pipeline: source tree and base model to the folder and tables that training reads."""

from dataclasses import dataclass
from pathlib import Path

import tiny
from commbert.settings.corpus import CorpusSettings, PathSource, SplitSettings
from commbert.settings.model import ModelSettings, PathModel
from commbert.settings.pairs import PairsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings
from commbert.stages import base, ingest, model, pairs, tokenizer, windows, words
from commbert.stages.evaluate import EvaluationPaths
from commbert.training.data import DataPaths


@dataclass(frozen=True)
class Stages:
    """What the data stages and the model stage left."""

    base: Path
    start: Path
    tokenizer: Path
    corpus: Path
    files: Path
    line_words: Path
    data: DataPaths
    evaluation: EvaluationPaths


def build(at: Path) -> Stages:
    """Run the data stages and the model stage on a source tree and a base model that are made here."""
    tiny.source_tree(at / "source")
    tiny.write_base_model(at / "raw", with_heads=True)
    base.run(PathModel(kind="path", path=str(at / "raw")), out=at / "base", timeout_s=1.0)
    corpus = CorpusSettings(
        sources=(PathSource(name="tree", kind="path", path=str(at / "source")),),
        split=SplitSettings(validation=0.2, test=0.2, max_shared_lines=1.0),
    )
    files, lines = at / "files.parquet", at / "lines.parquet"
    ingest.run(corpus, wheels={}, files_out=files, lines_out=lines, summary_out=at / "ingest.json")
    line_words = at / "line_words.parquet"
    words.run(
        WordsSettings(english_words=200),
        files=files,
        lines=lines,
        words_out=at / "corpus_words.parquet",
        line_words_out=line_words,
        english_out=at / "english.json",
        summary_out=at / "words.json",
    )
    tokenizer.run(
        TokenizerSettings(max_new_words=20),
        base=at / "base",
        files=files,
        lines=lines,
        corpus_words=at / "corpus_words.parquet",
        english=at / "english.json",
        tokenizer_out=at / "tokenizer",
        words_out=at / "words.parquet",
        receipts_out=at / "receipts.json",
    )
    of = {kind: {s: at / f"{kind}.{s}.parquet" for s in ("train", "validation", "test")} for kind in ("w", "p")}
    windows.run(
        WindowsSettings(lines_before=1, lines_after=1, max_length=64, heldout_stride=2),
        files=files,
        lines=lines,
        tokenizer=at / "tokenizer",
        out=of["w"],
        summary_out=at / "windows.json",
    )
    pairs.run(
        PairsSettings(subsample=None, heldout_positives=200),
        files=files,
        line_words=line_words,
        words=at / "words.parquet",
        out=of["p"],
        known_out=at / "known.parquet",
        summary_out=at / "pairs.json",
    )
    settings = ModelSettings(base=PathModel(kind="path", path=str(at / "raw")))
    model.run(settings, base=at / "base", tokenizer=at / "tokenizer", out=at / "start")
    w, p, known = of["w"], of["p"], at / "known.parquet"
    return Stages(
        base=at / "base",
        start=at / "start",
        tokenizer=at / "tokenizer",
        corpus=at / "ingest.json",
        files=files,
        line_words=line_words,
        data=DataPaths(w["train"], w["validation"], p["train"], p["validation"], known, at / "words.parquet"),
        evaluation=EvaluationPaths(
            files, line_words, at / "words.parquet", known, p["test"], w["test"], w["train"], at / "tokenizer"
        ),
    )
