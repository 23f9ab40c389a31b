"""What was asked for against what was done: a setting, what was measured of it, and whether they agree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isclose
from typing import Any

AS_ASKED, DIFFERS, DECIDED, MEASURED = "as asked", "differs", "decided", ""
"""Verdicts: equal; not equal; the setting left it to the program; the setting promises no number."""


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    what: str
    setting: str
    asked: str
    done: str
    verdict: str = MEASURED


def asked_and_done(
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    validations: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
) -> list[dict[str, str]]:
    """Return the lines of the table.

    Args:
        config: All settings of the run.
        training: The section ``training`` of the context.
        steps: Step rows of the metrics.
        validations: Validation rows of the metrics.
        data: Sections ``corpus``, ``receipts``, ``windows``, ``pairs``, ``model`` of the context.
    """
    lines = [
        *_data(config, data),
        *_length(config["training"], training),
        *_batches(config["training"], training, steps, data),
        *_optimization(config["training"], training, steps),
        *_choice(config["training"], training, validations),
        *_execution(config, training, data),
    ]
    return [asdict(line) for line in lines]


def _data(config: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Line]:
    splits = data["corpus"]["splits"]
    lines = sum(split["lines"] for split in splits.values())
    for name in ("validation", "test"):
        share = splits[name]["lines"] / max(1, lines)
        if data["corpus"]["split_by"] == "column":
            yield Line(f"share of lines for {name}", "corpus.sources[].split_column", "as the tables say", _pct(share))
            continue
        asked = config["corpus"]["split"][name]
        yield Line(f"share of lines for {name}", f"corpus.split.{name}", _pct(asked), _pct(share), _near(asked, share))
    tokenizer, added = config["tokenizer"], data["receipts"]["entries_added"]
    if tokenizer["mode"] == "keep":
        yield Line("new entries", "tokenizer.mode", "keep: none", f"{added:,}", AS_ASKED if not added else DIFFERS)
    elif tokenizer["mode"] == "train":
        most = tokenizer["vocabulary_size"]
        verdict = AS_ASKED if added <= most else DIFFERS
        yield Line("entries", "tokenizer.vocabulary_size", f"{most:,} at most", f"{added:,}", verdict)
    else:
        most = tokenizer["max_new_words"]
        verdict = AS_ASKED if added <= most else DIFFERS
        yield Line("new entries", "tokenizer.max_new_words", f"{most:,} at most", f"{added:,}", verdict)
    windows, found = config["windows"], data["windows"]["train"]
    is_file = windows.get("unit") == "file"
    lines = "whole files" if is_file else f"{windows['lines_before']} + 1 + {windows['lines_after']} lines"
    around = f"{lines}, {windows['max_length']} tokens at most"
    dropped = f"{found['windows_with_dropped_lines_pct']:.1f} % lost lines"
    lost = f"{found['tokens_per_window']:.1f} tokens on average, {dropped}"
    names = "unit, max_length" if is_file else "lines_before, lines_after, max_length"
    yield Line("window", f"windows.{names}", around, lost)


def _pct(share: float) -> str:
    return f"{100 * share:.1f} %"


def _near(asked: float, done: float) -> str:
    """Whole directories are dealt, so shares agree only about: within a quarter of what was asked for."""
    return AS_ASKED if abs(done - asked) <= 0.25 * asked else DIFFERS


def _length(asked: Mapping[str, Any], done: Mapping[str, Any]) -> Iterator[Line]:
    most, planned, n = asked["max_steps"], done["planned_steps"], done["steps"]
    limit = "no limit" if most is None else f"{most:,} at most"
    early = " (stopped early)" if done["stopped_early"] else ""
    verdict = DIFFERS if n != planned or (most is not None and n > most) else AS_ASKED
    yield Line("steps", "training.max_steps", limit, f"{n:,} of {planned:,} planned{early}", verdict)
    of = {"windows": "windows_epochs", "pairs": "pairs_epochs"}.get(asked["epoch"])
    passes = {key: done[f"{key}_epochs"] for key in ("windows", "pairs")}
    told = ", ".join(f"{value:.2f} of the {key}" for key, value in passes.items())
    reached = done[of] if of else max(passes.values())
    full = reached >= asked["epochs"] - 0.01
    why = " (max_steps came first)" if not full and most is not None and n == most else ""
    yield Line(
        "passes",
        "training.epochs, epoch",
        f"{asked['epochs']} of the {asked['epoch'] if of else 'longer stream'}",
        told + why,
        AS_ASKED if full else DIFFERS,
    )


def _batches(
    asked: Mapping[str, Any], done: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], data: Mapping[str, Any]
) -> Iterator[Line]:
    processes = done["world_size"] if asked["batch_per_process"] else 1
    per = f" x {processes} processes" if asked["batch_per_process"] else ""
    if asked["objectives"]["mlm"] > 0 or asked["objectives"]["mlm_end"]:
        is_paired = bool(asked["objectives"].get("nsp"))
        read, wanted = done["windows_read"] / len(steps) / (1 + is_paired), asked["batch_windows"] * processes
        verdict = AS_ASKED if isclose(read, wanted, rel_tol=0.01) else DIFFERS
        yield Line(
            "pairs of windows of a step" if is_paired else "windows of a step",
            "training.batch_windows",
            f"{asked['batch_windows']}{per}",
            f"{read:.1f}",
            verdict,
        )
        hidden = sum(s["hidden_tokens"] for s in steps)
        share = hidden / max(1.0, done["windows_read"] * data["windows"]["train"]["tokens_per_window"])
        rate = asked["masking"]["rate"]
        told = f"{_pct(share)} ({hidden:,} tokens; of the mean window)"
        # Of a short window at least one token is hidden, so that the share is a little above the rate.
        verdict = AS_ASKED if abs(share - rate) <= 0.1 * rate else DIFFERS
        yield Line("share of tokens hidden", "training.masking.rate", _pct(rate), told, verdict)
    terms = [s["pair_terms"] for s in steps if s["pair_terms"]]
    if terms:
        ways = 2 if asked["contrastive"]["symmetric"] else 1
        pairs, texts = asked["batch_pairs"], asked.get("batch_texts", 0)
        wanted = f"{pairs}{f' and {texts} of texts' if texts else ''}{per}"
        read = sum(terms) / len(terms) / ways
        verdict = AS_ASKED if isclose(read, (pairs + texts) * processes, rel_tol=0.01) else DIFFERS
        yield Line("pairs of a step", "training.batch_pairs", wanted, f"{read:.1f}", verdict)


def _optimization(
    asked: Mapping[str, Any], done: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> Iterator[Line]:
    first, last = steps[0]["mlm_weight"], steps[-1]["mlm_weight"]
    goal = asked["objectives"]["mlm_end"]
    beta = f"{asked['objectives']['mlm']:g}" + ("" if goal is None else f" to {goal:g}")
    agrees = isclose(first, asked["objectives"]["mlm"], abs_tol=0.01) and isclose(
        last, asked["objectives"]["mlm"] if goal is None else goal, abs_tol=0.01
    )
    told = f"{first:g}" if first == last else f"{first:g} to {last:g}"
    yield Line("beta (weight of MLM)", "training.objectives", beta, told, AS_ASKED if agrees else DIFFERS)
    if asked["objectives"].get("nsp"):
        weights = sorted({s["nsp_weight"] for s in steps})
        agrees = all(isclose(weight, asked["objectives"]["nsp"]) for weight in weights)
        done_nsp = " to ".join(f"{weight:g}" for weight in dict.fromkeys((weights[0], weights[-1])))
        verdict = AS_ASKED if agrees else DIFFERS
        yield Line("weight of NSP", "training.objectives.nsp", f"{asked['objectives']['nsp']:g}", done_nsp, verdict)
    optimizer, peak = asked["optimizer"], max(s["learning_rate"] for s in steps)
    rate = optimizer["learning_rate"]
    verdict = AS_ASKED if isclose(peak, rate, rel_tol=0.05) else DIFFERS
    shape = f"{rate:.2e}, {optimizer['schedule']}, warm-up {_pct(optimizer['warmup_fraction'])}"
    ends = f"{peak:.2e}, {steps[-1]['learning_rate']:.2e} at the end"
    yield Line("peak learning rate", "training.optimizer.learning_rate", shape, ends, verdict)
    norm = f"largest before {done['largest_gradient_norm']:.2f}, cut in {done['clipped_steps_pct']:.0f} % of the steps"
    yield Line(
        "gradient norm", "training.optimizer.max_gradient_norm", f"{optimizer['max_gradient_norm']:g} at most", norm
    )
    if any(s["pair_terms"] for s in steps):
        learnt = asked["contrastive"]["temperature_learning_rate"] is not None
        begin, end = asked["contrastive"]["temperature"], done["last_temperature"]
        fixed = AS_ASKED if isclose(begin, end, rel_tol=1e-3) else DIFFERS
        told = f"{begin:g}{', learnt' if learnt else ''}"
        verdict = MEASURED if learnt else fixed
        yield Line("temperature", "training.contrastive.temperature", told, f"{end:.4g} at the end", verdict)


def _choice(
    asked: Mapping[str, Any], done: Mapping[str, Any], validations: Sequence[Mapping[str, Any]]
) -> Iterator[Line]:
    every = asked["validate_every_steps"]
    rhythm = "every epoch" if every == "epoch" else f"every {every:,} steps"
    told = f"{len(validations)}, the last at step {validations[-1]['step']:,}" if validations else "none was made"
    yield Line("validations", "training.validate_every_steps", rhythm, told, MEASURED if validations else DIFFERS)
    best = "none chosen" if done["best_step"] is None else f"step {done['best_step']:,}, by {done['best_metric']}"
    yield Line("best step", "training.best_metric", asked["best_metric"], best)
    patience = "never" if asked["patience"] is None else f"after {asked['patience']} validations without gain"
    stopped = f"at step {done['steps']:,}" if done["stopped_early"] else "did not"
    verdict = DIFFERS if done["stopped_early"] and asked["patience"] is None else AS_ASKED
    yield Line("stop early", "training.patience", patience, stopped, verdict)


def _execution(config: Mapping[str, Any], done: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Line]:
    asked, used = config["training"], done["seed"]
    yield Line("seed", "training.seed", str(asked["seed"]), str(used), AS_ASKED if asked["seed"] == used else DIFFERS)
    precision = f"{done['precision']} ({done['precision_reason']})"
    auto = asked["precision"] == "auto"
    verdict = DECIDED if auto else AS_ASKED if asked["precision"] == done["precision"] else DIFFERS
    yield Line("precision", "training.precision", asked["precision"], precision, verdict)
    where = f"{done['device']}, {done['world_size']} process{'es' if done['world_size'] > 1 else ''}"
    yield Line("device", "runtime (changes no result)", "–", where, DECIDED)
    yield Line(
        "strategy", "runtime (changes no result)", "–", f"{done['strategy']} ({done['strategy_reason']})", DECIDED
    )
    share, taken = config["model"]["average_with_base"], data["model"]["average"]["share"]
    verdict = AS_ASKED if share == taken else DIFFERS
    yield Line("share of the start model", "model.average_with_base", f"{share:g}", f"{taken:g}", verdict)
    trainable = f"{done['parameters_trained']:,} parameters trained"
    yield Line("trained", "training.trainable", asked["trainable"], trainable)
