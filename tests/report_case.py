"""What a report is made of, small and whole, to be changed by tests."""

from typing import Any

from commbert.reporting.context import Sources
from commbert.reporting.energy import of_job, of_jobs
from commbert.reporting.measured import ROWS, SYSTEM_FIGURES
from commbert.settings.report import CostSettings
from commbert.settings.training import TrainingSettings

SPLITS = ("train", "validation", "test")
COST = CostSettings(price_per_kwh=0.5, currency="EUR", co2_g_per_kwh=400.0, pue=1.5)


def settings(**training: Any) -> dict[str, Any]:
    """All settings of a run."""
    return {
        "corpus": {"redact_secrets": True, "split": {"validation": 0.1, "test": 0.1}},
        "tokenizer": {"mode": "extend", "max_new_words": 10},
        "windows": {"lines_before": 3, "lines_after": 3, "max_length": 128},
        "model": {"average_with_base": 0.25},
        "report": {"compare_with": ["base"], "cost": COST.model_dump(mode="json")},
        "training": TrainingSettings.model_validate(
            {"max_steps": 2, "batch_windows": 4, "batch_pairs": 5, "validate_every_steps": 1, **training}
        ).model_dump(mode="json"),
    }


def step(number: int, **changes: Any) -> dict[str, Any]:
    """A step row of the metrics."""
    return {
        "event": "step",
        "step": number,
        "learning_rate": 2.0e-5 / number,
        "tokens": 100,
        "hidden_tokens": 12,
        "pair_terms": 10,
        "negatives_per_anchor": 8.0,
        "masked_out_pct": 1.0,
        "elapsed_s": float(number),
        "step_s": 0.5,
        "tokens_per_s": 200.0,
        "loss": 4.0 / number,
        "mlm_loss": 5.0,
        "contrastive_loss": 2.0,
        "mlm_weight": 0.7,
        "temperature": 0.05,
        "gradient_norm": 0.5 * number,
        **changes,
    }


def training(**changes: Any) -> dict[str, Any]:
    """training.json."""
    return {
        "steps": 2,
        "planned_steps": 2,
        "stopped_early": False,
        "resumed_at_steps": [],
        "best_step": 2,
        "best_metric": "hard",
        "best_value": 0.4,
        "figures_at_best": {"hard": 0.4, "retrieval_mrr": 0.2, "mlm_loss": None},
        "collapsed_at_steps": [],
        "windows_epochs": 0.5,
        "pairs_epochs": 1.0,
        "texts_epochs": 0.0,
        "trained_s": 1.0,
        "device": "cpu",
        "world_size": 1,
        "strategy": "single",
        "strategy_reason": "one process",
        "precision": "fp32",
        "precision_reason": "as set",
        "parameters_trained": 7,
        "machine": {"cpu": "c", "cores": 1, "memory_gib": 1.0, "gpus": []},
        "environment": {"commit": "a" * 40, "platform": "p", "versions": {"python": "3"}},
        "identity": {
            "settings": {"seed": 17, "optimizer": {"max_gradient_norm": 1.0}},
            "data": "d",
            "tokenizer": "t",
            "start_weights": "w",
        },
        **changes,
    }


def evaluation(value: float) -> dict[str, Any]:
    """evaluation.json with all figures of one value."""
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9}
    keys = [*(row.key for row in ROWS), *(key for key, _ in SYSTEM_FIGURES)]
    rungs = ("english", "random_code", "frequency_matched", "lexical")
    return {
        "figures": dict.fromkeys([*keys, *(f"auc_{rung}" for rung in rungs)], figure),
        "controls": {r: {"blind": 0.5, "classifier": None, "frequency": 0.5, "n": 7} for r in rungs},
        "retrieval": {"retrieval": {"popularity_mrr": 0.1}},
        "geometry": {"alignment": 1.0, "effective_rank": 0.1, "collapse": []},
        "strata": [{"rung": "lexical", "by": "lines", "bucket": "0 lines", "auc": figure, "n": 9}],
        "opposites": {"n": 2, "rate": 0.5, "mutual_rate": None, "examples": [["ul_x", "dl_x"]]},
        "neighbours": {"pusch": [["pucch", 0.9], ["pdsch", 0.8]]},
        "unigram": {"top1": 0.05},
        "settings": {"bootstrap": 10, "seed": 1},
        "model_sha256": "e" * 64,
    }


def usage(stage: str, serves: str = "run", wall_s: float = 10.0, began_unix_s: float = 0.0, **record: Any) -> Any:
    """A record of a stage as ``read_usage`` makes it; ``record`` is what the usage file holds beside the times."""
    job = {"wall_s": wall_s, "cpu_s": wall_s, "began_unix_s": began_unix_s, "peak_rss_gib": 1.0, **record}
    return {
        "stage": stage,
        "serves": serves,
        "jobs": 1,
        "began_unix_s": began_unix_s,
        "ended_unix_s": began_unix_s + wall_s,
        "wall_s": wall_s,
        "cpu_s": wall_s,
        "peak_rss_gib": 1.0,
        "peak_gpu_memory_gib": None,
        "mean_gpu_utilization_pct": None,
        "throttled_pct": None,
        "throttle_reasons": [],
        "gaps": 0,
        "energy": of_jobs([of_job(job, COST)]),
    }


def energy(gpu_j: float | None, cpu_j: float | None, why: str = "no sensor") -> dict[str, Any]:
    """The energy of a usage file."""
    return {
        "gpu_j": gpu_j,
        "gpu_source": None if gpu_j is None else "counter",
        "gpu_reason": why if gpu_j is None else None,
        "cpu_j": cpu_j,
        "cpu_source": None if cpu_j is None else "rapl",
        "cpu_reason": why if cpu_j is None else None,
    }


def sources(**changes: Any) -> Sources:
    """Everything a context is made of; a run compared with the base model."""
    change = {"value": 0.2, "low": 0.1, "high": 0.3}
    keys = [*(row.key for row in ROWS), *(key for key, _ in SYSTEM_FIGURES)]
    split = {"files": 1, "lines": 10, "n_directories": 61, "directories": ["s:d"]}
    window = {"windows": 16, "tokens_per_window": 20.0, "windows_with_dropped_lines_pct": 0.0}
    seen = dict.fromkeys(("lines", "long_lines", "windows"), 1.0)
    leaks = {s: {f"{name}_seen_in_training_pct": v for name, v in seen.items()} for s in ("validation", "test")}
    fertility = {"tokens_per_word": 1.5, "one_token_words_pct": 50.0}
    whole: dict[str, Any] = {
        "run": "final",
        "config": settings(),
        "ingest": {
            "accounting": {"used": {"files": 1, "bytes": 2, "lines": 3}},
            "sources": [SOURCE],
            "secrets": {},
            "skipped_examples": [],
            "split_by": "directory",
            "splits": {"train": {**split, "lines": 80}, "validation": split, "test": split},
            "corpus_digest": "c",
        },
        "words": {"words": 1, "words_in_training": 1},
        "receipts": {
            "entries_before": 1,
            "entries_after": 4,
            "entries_added": 3,
            "entries_added_seen_in_heldout_pct": 0.0,
            "new_rows_never_trained": 0,
            "english_words_recut": 0,
            "english_words_checked": 1,
            "first_words": [],
            "fertility": {"before": fertility, "after": {**fertility, "tokens_per_word": 1.25}},
        },
        "windows": {"splits": dict.fromkeys(SPLITS, window), "leakage": leaks},
        "pairs": {"known_pairs": 1, "splits": {s: {"same_line": 1} for s in SPLITS}, "leakage": {}},
        "training": training(),
        "model": {"average": {"share": 0.25}, "settings": {"pooling": "mean", "base": {"kind": "path", "path": "b"}}}
        | {"summary": {"layers": 1, "hidden_size": 2, "parameters": 3, "vocabulary": 4, "new_rows": 1}},
        "model_folder": "results/runs/final/final",
        "evaluation": evaluation(0.7),
        "others": {"base": evaluation(0.5)},
        "columns": ["base"],
        "differences": {"base": dict.fromkeys(keys, change)},
        "usage": [usage("corpus"), usage("train final", began_unix_s=20.0)],
        "steps": [step(1), step(2)],
        "validations": [{"event": "validation", "step": 2, "retrieval_mrr": 0.2}],
    }
    return Sources(**{**whole, **changes})


SOURCE = {
    "name": "s",
    "kind": "git",
    "license": "MIT",
    "url": "https://h.invalid/r",
    "commit": "0" * 40,
    "digest": "f00",
    "files_used": 1,
    "lines_used": 3,
}
