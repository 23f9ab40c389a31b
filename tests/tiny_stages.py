"""One small pipeline: sources and base model to the folder and tables that training reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tiny
from commbert import tables
from commbert.settings.corpus import CorpusSettings, PathSource, SplitSettings
from commbert.settings.model import ModelSettings, PathModel
from commbert.settings.pairs import PairsSettings
from commbert.settings.texts import TextsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings
from commbert.stages import (
    acronyms,
    base,
    corpus,
    draw,
    functions,
    ingest,
    lex,
    model,
    pairs,
    texts,
    tokenizer,
    windows,
    words,
)
from commbert.stages.subjects import EvaluationPaths
from commbert.training.data import DataPaths

WORDS = WordsSettings(english_words=200)
TOKENIZER = TokenizerSettings(max_new_words=20)
WINDOWS = WindowsSettings(lines_before=1, lines_after=1, max_length=64, heldout_stride=2)
TEXTS = TextsSettings()
RESOURCES = Path(__file__).parents[1] / "resources" / "evaluation"
OWN = {
    "terms": "terms_3gpp.csv",
    "opposites": "opposites.csv",
    "similarity": "general_similarity.csv",
    "general_text": "general_text.txt",
}
PAIRS = PairsSettings(subsample=None, heldout_positives=200)


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


@dataclass(frozen=True)
class DataSettings:
    """The sections of the data stages."""

    corpus: CorpusSettings
    words: WordsSettings = WORDS
    tokenizer: TokenizerSettings = TOKENIZER
    windows: WindowsSettings = WINDOWS
    pairs: PairsSettings = PAIRS
    texts: TextsSettings = TEXTS


@dataclass(frozen=True)
class Data:
    """What the data stages leave below a folder, named as the workflow names it."""

    at: Path
    shards: tuple[str, ...]

    def shard_files(self, shard: str) -> Path:
        return self.at / "shards" / shard / "files.parquet"

    def lines(self, shard: str) -> Path:
        return self.at / "shards" / shard / "lines.parquet"

    def lexed(self, shard: str) -> Path:
        return self.at / "lex" / shard

    def drawn(self, shard: str) -> Path:
        return self.at / "draws" / shard

    def windows(self, shard: str) -> windows.ShardWindows:
        folder = self.at / "windows"
        return windows.ShardWindows(
            {split: folder / split / f"{shard}.parquet" for split in tables.SPLITS},
            folder / "hashes" / f"{shard}.parquet",
            folder / "counts" / f"{shard}.json",
        )

    @property
    def functions(self) -> dict[str, Path]:
        folder = self.at / "corpus"
        return {"out": folder / "functions.parquet", "summary_out": folder / "functions.json"}

    @property
    def acronyms(self) -> dict[str, Path]:
        folder = self.at / "corpus"
        return {"acronyms_out": folder / "acronyms.parquet", "summary_out": folder / "acronyms.json"}

    @property
    def texts(self) -> dict[str, Path]:
        folder = self.at / "texts"
        names = {"texts_out": "texts.parquet", "pairs_out": "pairs.parquet", "summary_out": "summary.json"}
        return {key: folder / name for key, name in names.items()}

    @property
    def files(self) -> Path:
        return self.at / "corpus" / "files.parquet"

    @property
    def window_lists(self) -> dict[str, Path]:
        return {split: self.at / "windows" / f"{split}.json" for split in tables.SPLITS}

    @property
    def pairs(self) -> pairs.PairsOutputs:
        folder = self.at / "pairs"
        return pairs.PairsOutputs(
            {split: folder / f"{split}.parquet" for split in tables.SPLITS},
            known=folder / "known.parquet",
            heldout_lines=folder / "heldout_lines.parquet",
            summary=folder / "summary.json",
        )


def run_data(at: Path, settings: DataSettings, base: Path | None, fetched: Mapping[str, Path] | None = None) -> Data:
    """Run all data stages of all shards.

    Args:
        at: Folder that the results go to.
        settings: The sections.
        base: Folder of the base model; None where the vocabulary is learnt.
        fetched: What was fetched of a source, by its name.
    """
    shards = {name: (s, i) for s in settings.corpus.sources for i, name in enumerate(s.shard_names)}
    data = Data(at, tuple(shards))
    for name, (source, number) in shards.items():
        ingest.run(
            settings.corpus.of_shard(source),
            shard=number,
            fetched=(fetched or {}).get(source.name),
            files_out=data.shard_files(name),
            lines_out=data.lines(name),
            summary_out=at / "shards" / name / "ingest.json",
        )
        lex.run(settings.words.of_lines(), base=base, lines=data.lines(name), out=data.lexed(name))
    paths = [corpus.ShardPaths(data.shard_files(name), at / "shards" / name / "ingest.json") for name in shards]
    where = {"files": data.files, "shards": at / "corpus" / "shards.json"}
    corpus.run(
        settings.corpus.gathering(),
        shards=paths,
        files_out=where["files"],
        shards_out=where["shards"],
        summary_out=at / "corpus" / "ingest.json",
    )
    folders = {name: data.lexed(name) for name in shards}
    found = {"words_out": at / "corpus" / "words.parquet", "english_out": at / "corpus" / "english.json"}
    words.run(settings.words, **where, folders=folders, **found, summary_out=at / "corpus" / "words.json")
    tokenizer.run(
        settings.tokenizer,
        base=base,
        **where,
        folders=folders,
        corpus_words=found["words_out"],
        english=found["english_out"],
        tokenizer_out=at / "tokenizer" / "tokenizer",
        words_out=at / "tokenizer" / "words.parquet",
        receipts_out=at / "tokenizer" / "receipts.json",
    )
    for name, folder in folders.items():
        grown = at / "tokenizer" / "tokenizer"
        windows.run(settings.windows, **where, lexed=folder, tokenizer=grown, out=data.windows(name))
        draw.run(settings.pairs, **where, lexed=folder, words=found["words_out"], out=data.drawn(name))
    windows.gather(
        [data.windows(name) for name in shards], out=data.window_lists, summary_out=at / "windows" / "summary.json"
    )
    pairs.run(
        settings.pairs,
        folders=[data.drawn(name) for name in shards],
        files=data.files,
        words=at / "tokenizer" / "words.parquet",
        out=data.pairs,
    )
    lines = {name: data.lines(name) for name in shards}
    functions.run(**where, lines=lines, **data.functions)
    acronyms.run(**where, lines=lines, **data.acronyms)
    texts.run(
        settings.texts,
        files=data.files,
        functions=data.functions["out"],
        acronyms=data.acronyms["acronyms_out"],
        tokenizer=at / "tokenizer" / "tokenizer",
        **data.texts,
    )
    return data


def build(at: Path) -> Stages:
    """Run the data stages and the model stage on a source tree and a base model that are made here."""
    tiny.source_tree(at / "source")
    tiny.write_base_model(at / "raw", with_heads=True)
    base.run(PathModel(kind="path", path=str(at / "raw")), out=at / "base", timeout_s=1.0)
    sections = CorpusSettings(
        sources=(PathSource(name="tree", kind="path", path=str(at / "source"), shards=2),),
        split=SplitSettings(validation=0.2, test=0.2, max_shared_lines=1.0),
    )
    data = run_data(at, DataSettings(sections), at / "base")
    settings = ModelSettings(base=PathModel(kind="path", path=str(at / "raw")))
    grown, all_words = at / "tokenizer" / "tokenizer", at / "tokenizer" / "words.parquet"
    model.run(settings, base=at / "base", tokenizer=grown, out=at / "start")
    w, p = data.window_lists, data.pairs
    return Stages(
        base=at / "base",
        start=at / "start",
        tokenizer=grown,
        corpus=at / "corpus" / "ingest.json",
        files=data.files,
        line_words=p.heldout_lines,
        data=DataPaths(w["train"], w["validation"], p.splits["train"], p.splits["validation"], p.known, all_words),
        evaluation=EvaluationPaths(
            files=data.files,
            line_words=p.heldout_lines,
            words=all_words,
            known=p.known,
            pairs=p.splits["test"],
            windows=w["test"],
            train_windows=w["train"],
            windows_tokenizer=grown,
            functions=data.functions["out"],
            acronyms=data.acronyms["acronyms_out"],
            **{name: RESOURCES / file for name, file in OWN.items()},
        ),
    )
