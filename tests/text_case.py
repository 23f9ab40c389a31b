"""A text table learnt by masked language modelling alone: a tiny BERT of single characters, all stages to a report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tiny
import tiny_stages
from commbert.reporting.vectors import VectorFiles
from commbert.settings.config import load
from commbert.settings.corpus import CorpusSettings, TableSource
from commbert.settings.evaluation import EvaluationSettings
from commbert.settings.explore import ExploreSettings
from commbert.settings.model import ModelSettings, PathModel
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.training import TrainingSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings
from commbert.stages import average, base, evaluate, explore, model, report, train
from commbert.stages.subjects import EvaluationPaths, ModelSubject
from commbert.training.data import DataPaths
from corpus_case import sha256

QA = Path(__file__).parents[1] / "resources" / "examples" / "qa_zh.csv"
HAN_WORDS = r"\p{Han}|[[\p{L}_]--\p{Han}][[\p{L}\p{M}\p{N}_]--\p{Han}]*"
TRAINING: dict[str, Any] = {
    "objectives": {"mlm": 1.0, "contrastive": 0.0},
    "optimizer": {"learning_rate": 3.0e-3},
    "epochs": 3,
    "epoch": "windows",
    "max_steps": None,
    "batch_windows": 16,
    "batch_texts": 0,
    "micro_batches": 1,
    "validate_every_steps": "epoch",
    "best_metric": "mlm_loss",
}
EVALUATION = EvaluationSettings(windows=100, retrieval_queries=30, random_pairs=500, bootstrap=100)


def characters_of(texts: Iterable[str]) -> list[str]:
    """Return the characters that no ASCII vocabulary has, as BERT's normalizer leaves them."""
    return sorted({c for text in texts for c in text.lower() if not c.isascii()})


def write_base(folder: Path, characters: list[str], **options: Any) -> Path:
    """Write a base model whose vocabulary holds single characters, as that of bert-base-chinese does."""
    plain = tiny.vocabulary
    try:
        tiny.vocabulary = lambda: [*plain(), *dict.fromkeys(characters)]
        return tiny.write_base_model(folder, with_heads=True, **options)
    finally:
        tiny.vocabulary = plain


def table_source(path: Path, template: str, **changes: Any) -> TableSource:
    return TableSource(kind="table", name="texts", path=str(path), sha256=sha256(path), template=template, **changes)


def settings_of(source: TableSource, **sections: Any) -> tiny_stages.DataSettings:
    """Return the sections of the data stages as the preset for texts has them."""
    chosen = {
        "words": WordsSettings(pattern=HAN_WORDS, min_chars=1, text="all", english_words=200),
        "tokenizer": TokenizerSettings(mode="keep"),
        "windows": WindowsSettings(unit="file", max_length=50),
    }
    return tiny_stages.DataSettings(CorpusSettings(sources=(source,)), **{**chosen, **sections})


def run_all(at: Path, settings: tiny_stages.DataSettings, raw: Path, **training: Any) -> tiny_stages.Data:
    """Run every stage from the table to the evaluations of the run and of the model that it started from."""
    source = PathModel(kind="path", path=str(raw))
    base.run(source, out=at / "base", timeout_s=1.0)
    data = tiny_stages.run_data(at, settings, at / "base")
    model.run(ModelSettings(base=source), base=at / "base", tokenizer=at / "tokenizer" / "tokenizer", out=at / "start")
    windows, pairs = data.window_lists, data.pairs
    words = at / "tokenizer" / "words.parquet"
    trained = train.run(
        TrainingSettings.model_validate({**TRAINING, **training}),
        RuntimeSettings(device="cpu"),
        data=DataPaths(
            windows["train"],
            windows["validation"],
            pairs.splits["train"],
            pairs.splits["validation"],
            pairs.known,
            words,
        ),
        model=at / "start",
        corpus=at / "corpus" / "ingest.json",
        checkpoints=at / "checkpoint",
        best_out=at / "trained" / "best",
        final_out=at / "trained" / "final",
        metrics_out=at / "metrics.jsonl",
        summary_out=at / "training.json",
    )
    assert trained is not None
    average.run(0.0, start=at / "start", trained=[at / "trained" / "final"], out=[at / "model"])
    tables = EvaluationPaths(
        files=data.files,
        line_words=pairs.heldout_lines,
        words=words,
        known=pairs.known,
        pairs=pairs.splits["test"],
        windows=windows["test"],
        train_windows=windows["train"],
        windows_tokenizer=at / "tokenizer" / "tokenizer",
        functions=data.functions["out"],
        acronyms=data.acronyms["acronyms_out"],
        **{name: tiny_stages.RESOURCES / file for name, file in tiny_stages.OWN.items()},
    )
    for name, folder in (("final", at / "model"), ("base_evaluation", at / "start")):
        evaluate.run(
            EVALUATION,
            subject=ModelSubject(folder, "mean", True, "cpu"),
            data=tables,
            split="test",
            out=at / name / "evaluation.json",
            scores_out=at / name / "evaluation.scores.parquet",
        )
    return data


def report_of(at: Path, data: tiny_stages.Data, settings: tiny_stages.DataSettings) -> dict[str, Path]:
    """Write the pages of the words and the report of a run that ``run_all`` made; return the report's files."""
    sections = {name: getattr(settings, name).model_dump(mode="json") for name in ("corpus", "words", "windows")}
    raw = {
        **sections,
        "tokenizer": settings.tokenizer.model_dump(mode="json"),
        "model": {"base": {"kind": "path", "path": "base"}},
        "training": TRAINING,
        "report": {"compare_with": ["base"], "systems": []},
        "runs": {"final": {}},
    }
    shown = explore.run(
        ExploreSettings(words=200, neighbours=5, map_words=20),
        "final",
        base=explore.ExploredModel(at / "base", "mean"),
        model=explore.ExploredModel(at / "model", "mean"),
        telling=(),
        device="cpu",
        data=explore.ExploreInputs(
            words=at / "tokenizer" / "words.parquet",
            corpus_words=at / "corpus" / "words.parquet",
            files=data.files,
            shards=at / "corpus" / "shards.json",
            lexed={name: data.lexed(name) for name in data.shards},
        ),
        out=explore.ExploreOutputs(
            VectorFiles(*(at / "vectors" / name for name in ("v.parquet", "v.tsv", "m.tsv", "v.txt"))),
            *(at / "explored" / name for name in ("page.html", "map.json", "map.svg", "explore.json")),
        ),
    )
    assert shown["words"]
    outputs = {name: at / "report" / name for name in ("r.md", "r.json", "r.html", "card.md", "settings.yaml")}
    more = [at / "report" / f"{name}.svg" for name in ("loss", "figures", "optimizer", "timeline")]
    more += [at / "report" / f"{name}.csv" for name in ("figures", "stages")]
    inputs = report.ReportInputs(
        ingest=at / "corpus" / "ingest.json",
        words=at / "corpus" / "words.json",
        receipts=at / "tokenizer" / "receipts.json",
        windows=at / "windows" / "summary.json",
        pairs=at / "pairs" / "summary.json",
        training=at / "training.json",
        metrics=at / "metrics.jsonl",
        model=at / "model",
        evaluation=at / "final" / "evaluation.json",
        usage_folder=at / "logs",
        others={"base": at / "base_evaluation" / "evaluation.json"},
        embedding_map=at / "explored" / "map.svg",
    )
    report.run(
        "final",
        config=load(raw).settings_of("final"),
        inputs=inputs,
        outputs=report.ReportOutputs(*outputs.values(), *more),
    )
    return outputs
