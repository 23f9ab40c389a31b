"""The default run on the test split, over seeds of training: what a single seed's interval cannot say.

    make run
    snakemake --cores all -- results/runs/final@18/evaluation.json results/runs/final@19/evaluation.json
    python tests/benchmarks/seeds.py [--run final] [--seeds 18,19] [--against base,ppmi_svd,base_head]

Reads the evaluations under ``results/`` of the working folder. A figure is the mean over seeds; its interval, and that
of the paired difference to each other system, are over seeds and items (``commbert.evaluation.seeds``). A system
trained once stands for each seed. Writes reports/seeds.md and reports/seeds.json.
"""

import argparse
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, write_json, write_text
from commbert.evaluation.scores import Draws, draws_of, read_scores
from commbert.evaluation.seeds import over_seeds

FIGURES = {
    "auc_english": "AUC against English words",
    "auc_random_code": "AUC against random code words",
    "auc_frequency_matched": "AUC against frequency-matched code words",
    "auc_frequency_matched_novel": "same, novel pairs only",
    "auc_lexical_novel": "AUC against words that share a sub-word, novel pairs",
    "retrieval_mrr": "Same-line retrieval, MRR",
    "function_mrr": "Same-function retrieval, MRR",
    "brief_mrr": "Brief to function, MRR",
    "acronym_mrr": "Acronyms and expansions of the comments, MRR",
    "acronym_mrr_novel": "same, those that no training line defines",
    "term_mrr": "3GPP terms, MRR",
    "general_similarity": "Similarity of plain English, Spearman",
    "mlm_top1": "MLM top-1 accuracy",
    "mlm_loss_per_char": "MLM loss per character (nats)",
}


def main() -> None:
    args = _arguments()
    results = Path("results")
    runs = [args.run, *(f"{args.run}@{seed}" for seed in args.seeds.split(","))]
    evaluations = [results / "runs" / name / "evaluation.json" for name in runs]
    made_by = _made_by([*evaluations, *(_evaluation(results, name) for name in args.against.split(","))])
    settings = read_json(evaluations[0])["settings"]
    ours = [_draws(path, settings) for path in evaluations]
    against = {name: _draws(_evaluation(results, name), settings) for name in args.against.split(",")}
    rows = [_row(key, ours, against) for key in FIGURES if all(key in found for found in ours)]
    write_json(Path("reports/seeds.json"), {"runs": runs, "rows": rows, "made_by": made_by})
    text = _markdown(rows, runs, list(against))
    write_text(Path("reports/seeds.md"), text)
    print(text, end="")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="final")
    parser.add_argument("--seeds", default="18,19", help="those beside the run's own")
    parser.add_argument("--against", default="base,ppmi_svd,base_head")
    return parser.parse_args()


def _evaluation(results: Path, name: str) -> Path:
    baseline = results / "baselines" / name / "evaluation.json"
    return baseline if baseline.exists() else results / "runs" / name / "evaluation.json"


def _made_by(evaluations: list[Path]) -> dict[str, Any]:
    """Return the settings and the code of all evaluations; old ones beside new ones give figures of nothing."""
    found = {str(path): read_json(path) for path in evaluations}
    made_by = {
        name: {"commit": e["environment"]["commit"], "settings": e["settings"]} for name, e in sorted(found.items())
    }
    first, *others = made_by.values()
    if any(other != first for other in others):
        commits = ", ".join(f"{name} ({made['commit']})" for name, made in made_by.items())
        raise SystemExit(f"error: expected evaluations of one commit and of the same settings, found {commits}.")
    return dict(first)


def _draws(evaluation: Path, settings: dict[str, Any]) -> dict[str, Draws]:
    scores = read_scores(evaluation.with_suffix(".scores.parquet"))
    return draws_of(scores, FIGURES, n_resamples=settings["bootstrap"], seed=settings["seed"])


def _row(key: str, ours: list[dict[str, Draws]], against: dict[str, dict[str, Draws]]) -> dict[str, Any]:
    found = [draws[key] for draws in ours]
    others = {}
    for name, draws in against.items():
        other = [draws[key]] if key in draws else []
        value, change = over_seeds(other), over_seeds(found, other * len(found))
        others[name] = {"value": value and vars(value), "difference": change and vars(change)}
    value = over_seeds(found)
    assert value is not None
    return {"figure": key, "value": vars(value), "seeds": [d.value for d in found], "against": others}


def _markdown(rows: list[dict[str, Any]], runs: list[str], against: list[str]) -> str:
    heads = [f"{name} | run minus {name}" for name in against]
    lines = [f"| figure, test directories | {', '.join(runs)} | mean | {' | '.join(heads)} |"]
    lines.append("|---" * (3 + 2 * len(against)) + "|")
    for row in rows:
        cells = [", ".join(f"{value:.3f}" for value in row["seeds"]), _interval(row["value"])]
        for name in against:
            other = row["against"][name]
            cells.append(f"{other['value']['value']:.3f}" if other["value"] else "–")
            cells.append(_interval(other["difference"], "+") if other["difference"] else "–")
        lines.append(f"| {FIGURES[row['figure']]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(value: dict[str, Any], sign: str = "") -> str:
    return f"{value['value']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"


if __name__ == "__main__":
    main()
