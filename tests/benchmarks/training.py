"""How fast training is, against what one would use without commbert; run it where ``make data`` has run.

    python tests/benchmarks/training.py [--size minilm|base] [--rounds 3] [--device cpu|cuda] [--out reports]

Three variants take the same steps on the same rows (64 windows, 64 pairs of different words, masked alike) with the
same objective, start weights and rate:

* ``padded``: as the public system does: windows and words padded to 128 tokens, every row through the whole
  BertForMaskedLM, logits for every position.
* ``libraries``: transformers' Trainer with dynamic padding, and sentence-transformers' MultipleNegativesRankingLoss on
  the same encoder.
* ``commbert``: this package's step.

First it checks that all three compute the same loss and the same gradient; if not, it stops. Then the variants take
turns, each turn in a new process: one warm-up step, then the timed steps, with the peak of matrix products measured
right before and right after. Times are what they are: nothing is asserted about them; the report says when the cores
were shared with other work.

Writes benchmark_training_{size}_{device}.json (all raw figures) and .md (tables). Needs the packages
``sentence-transformers`` and ``accelerate`` (the Trainer's own need) for ``libraries``.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from commbert.artifacts import read_json, write_json, write_text
from commbert.monitoring import machine
from commbert.provenance import commit, versions
from commbert.training.launch import TUNABLES

WORKER = Path(__file__).with_name("training_worker.py")
VARIANTS = ("padded", "libraries", "commbert")
NEEDED = (
    "windows/train.parquet",
    "windows/validation.parquet",
    "pairs/train.parquet",
    "pairs/validation.parquet",
    "pairs/known.parquet",
    "tokenizer/words.parquet",
    "runs/final/start/model.safetensors",
    "runs/final/start/tokenizer.json",
)
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
QUIET = 0.9
"""On a machine at rest every matmul peak is at least this share of the highest one of the run."""
USEFUL = (
    "Useful is what no implementation of this objective can leave out: the tokens of the windows and of each different "
    "word, [CLS] and [SEP] with them and padding without; their linear layers (2 (4 H^2 + 2 H I) FLOP per token and "
    "layer) and attention within their own sequence (4 L H per token and layer); the MLM head at the masked positions "
    "only (2 H V + 2 H^2); all of it three times, for the backward pass costs two forward passes. It is the same "
    "number for all variants, so the share of the peak falls with every FLOP spent on something else. The peak is that "
    "of large matrix products in the same process, right before and after the timed steps: by torch.mm, and by the way "
    "that commbert takes (on AMD processors oneDNN, which the other variants do not reach)."
)


def main() -> None:
    args = arguments()
    require_inputs(args)
    checked = {v: turn(v, args, is_check=True) for v in args.variants}
    compare(checked)
    turns = []
    for number in range(1, args.rounds + 1):
        for variant in args.variants:
            turns.append({"round": number, "variant": variant, **turn(variant, args)})
            print(f"round {number} {variant}: {seconds_text(turns[-1]['step_seconds'])} s/step", flush=True)
    report = {
        "about": about(args),
        "check": checked,
        "variants": {v: figures([t for t in turns if t["variant"] == v]) for v in args.variants},
        "turns": turns,
    }
    report["ratios"] = ratios(report["variants"])
    stem = args.out / f"benchmark_training_{args.size}_{args.device}"
    write_json(stem.with_suffix(".json"), report)
    write_text(stem.with_suffix(".md"), markdown(report))
    print(markdown(report))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["minilm", "base"], default="minilm", help="base: random start weights")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--steps", type=int, help="timed steps of a turn; default 2 for padded, 3 for the others")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cpu: float32, cuda: bf16 autocast")
    parser.add_argument("--variants", type=lambda s: s.split(","), default=list(VARIANTS), help="separated by commas")
    parser.add_argument("--batch", type=int, default=64, help="windows and pairs of a step; less where memory is short")
    parser.add_argument("--micro-batches", type=int, default=1, help="commbert's training.micro_batches")
    parser.add_argument("--tunables-for-all", action="store_true", help="commbert's GLIBC_TUNABLES for all variants")
    parser.add_argument("--data", type=Path, default=Path("results"), help="what the workflow made")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder of the report")
    args = parser.parse_args()
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"--variants: expected some of {','.join(VARIANTS)}, found {','.join(sorted(unknown))}")
    return args


def require_inputs(args: argparse.Namespace) -> None:
    """Say at once what is missing, and how to get it."""
    missing = [name for name in NEEDED if not (args.data / name).is_file()]
    if missing:
        sys.exit(
            f"{args.data}: expected what the workflow makes, lacks {', '.join(missing)}. Run `make data` for the "
            "tables and `snakemake --cores all results/runs/final/start` for the start model, or name a folder with "
            "--data."
        )
    packages = ("sentence_transformers", "accelerate") if "libraries" in args.variants else ()
    lacking = [p.replace("_", "-") for p in packages if importlib.util.find_spec(p) is None]
    if lacking:
        sys.exit(
            f"The variant libraries needs {' and '.join(lacking)}: `pip install {' '.join(lacking)}`, "
            "or leave it out with --variants padded,commbert."
        )


def turn(variant: str, args: argparse.Namespace, *, is_check: bool = False) -> dict[str, Any]:
    """Run one variant in a process of its own (so its peak memory is its own) and return what it measured."""
    n_steps = 0 if is_check else args.steps or (2 if variant == "padded" else 3)
    env = dict(os.environ)
    # Others run as their users run them; commbert sets this for itself when it starts training.
    if variant == "commbert" or args.tunables_for_all:
        env.setdefault("GLIBC_TUNABLES", TUNABLES)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(WORKER), variant, "--data", str(args.data), "--size", args.size]
        command += ["--batch", str(args.batch)]
        command += ["--device", args.device, "--micro-batches", str(args.micro_batches), "--steps", str(n_steps)]
        command += ["--result", str(result), *(["--check"] if is_check else [])]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{variant} failed:\n{done.stderr[-4000:]}")
        found: dict[str, Any] = read_json(result)
    return {**found, "load_average_before": load, "glibc_tunables": "GLIBC_TUNABLES" in env}


def compare(checked: dict[str, dict[str, Any]]) -> None:
    """Stop unless all variants compute the same: times of different computations cannot be compared."""
    figures_of = {
        "loss": ({v: r["losses"][0] for v, r in checked.items()}, LOSS_TOLERANCE),
        "encoder gradient norm": ({v: r["encoder_gradient_norm"] for v, r in checked.items()}, GRADIENT_TOLERANCE),
    }
    for name, (values, tolerance) in figures_of.items():
        text = ", ".join(f"{v} {x:.7g}" for v, x in values.items())
        print(f"step 0, {name}: {text}", flush=True)
        if max(values.values()) - min(values.values()) > tolerance * max(values.values()):
            sys.exit(f"The variants differ in the {name} of step 0 by more than {tolerance:g}: {text}.")


def figures(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Return a variant's figures over all timed steps of all its turns."""
    seconds = [s for t in turns for s in t["step_seconds"]]
    work = [w for t in turns for w in t["work"]]
    # The better of the two measurements of a turn: a peak is what is possible.
    peaks, best_peaks = (
        [max(p[way] for p in t["matmul_gflops"]) for t in turns for _ in t["step_seconds"]]
        for way in ("torch.mm", "commbert")
    )
    gflops = [w["useful_gflop"] / s for w, s in zip(work, seconds, strict=True)]
    return {
        "timed_steps": len(seconds),
        "seconds_median": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "windows_per_s": median(w["windows"] / s for w, s in zip(work, seconds, strict=True)),
        "useful_tokens_per_s": median(w["useful_tokens"] / s for w, s in zip(work, seconds, strict=True)),
        "useful_gflops": median(gflops),
        "matmul_peak_gflops": median(peaks),
        "share_of_peak": median(g / p for g, p in zip(gflops, peaks, strict=True)),
        "best_peak_gflops": median(best_peaks),
        "share_of_best_peak": median(g / p for g, p in zip(gflops, best_peaks, strict=True)),
        "peak_memory_gib": max(t["memory_gib"]["peak"] for t in turns),
        "memory_before_steps_gib": max(t["memory_gib"]["before"] for t in turns),
    }


def ratios(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return how many times as many windows per second, and what share of the memory, against each other variant."""
    ours = found.get("commbert")
    if ours is None:
        return {}
    return {
        other: {
            "windows_per_s": ours["windows_per_s"] / theirs["windows_per_s"],
            "peak_memory": ours["peak_memory_gib"] / theirs["peak_memory_gib"],
        }
        for other, theirs in found.items()
        if other != "commbert"
    }


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    packages = {
        name: importlib.metadata.version(name) if importlib.util.find_spec(name.replace("-", "_")) else None
        for name in ("sentence-transformers", "accelerate")
    }
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": {**versions(), **packages},
        "size": args.size,
        "device": args.device,
        "precision": "bf16 autocast" if args.device == "cuda" else "fp32",
        "rounds": args.rounds,
        "micro_batches": args.micro_batches,
        "glibc_tunables": TUNABLES,
        "tunables_for_all": args.tunables_for_all,
        "useful": USEFUL,
    }


def seconds_text(seconds: list[float]) -> str:
    return " ".join(f"{s:.3g}" for s in seconds)


def markdown(report: dict[str, Any]) -> str:
    """Return the tables."""
    head = (
        "| variant | s/step: median (min to max) | windows/s | useful tokens/s | useful GFLOP/s | matmul peak GFLOP/s "
        "| share of it | commbert's peak GFLOP/s | share of it | peak memory GiB |\n" + "|---" * 10 + "|\n"
    )
    rows = "".join(
        f"| {name} | {f['seconds_median']:.3g} ({f['seconds_min']:.3g} to {f['seconds_max']:.3g}) "
        f"| {f['windows_per_s']:.3g} | {f['useful_tokens_per_s']:,.0f} | {f['useful_gflops']:,.0f} "
        f"| {f['matmul_peak_gflops']:,.0f} | {f['share_of_peak']:.1%} | {f['best_peak_gflops']:,.0f} "
        f"| {f['share_of_best_peak']:.1%} | {f['peak_memory_gib']:.2f} |\n"
        for name, f in report["variants"].items()
    )
    against = "".join(
        f"| {name} | {r['windows_per_s']:.2f} times | {r['peak_memory']:.2f} times |\n"
        for name, r in report["ratios"].items()
    )
    against_head = "| commbert against | windows/s | peak memory |\n|---|---|---|\n"
    against = against_head + against if against else ""
    parts = [title(report), setting(report), head + rows, against, disturbed(report), USEFUL, fairness(report)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def title(report: dict[str, Any]) -> str:
    return f"# Training benchmark: {report['about']['size']}, {report['about']['device']}"


def setting(report: dict[str, Any]) -> str:
    a, first = report["about"], report["turns"][0]
    gpus = ", ".join(g["name"] for g in a["machine"]["gpus"]) if a["device"] == "cuda" else ""
    packages = ("torch", "transformers", "sentence-transformers", "accelerate")
    libraries = ", ".join(f"{p} {a['versions'].get(p)}" for p in packages)
    work = first["work"][0]
    return (
        f"{gpus or a['machine']['cpu']}, {first['threads']} CPU threads, {a['precision']}; {libraries}; "
        f"commit {a['commit']}; {a['date']}; load average before {first['load_average_before'][0]:.2f}. "
        f"{a['rounds']} round(s), {work['windows']} windows and as many pairs a step; the first timed step has "
        f"{work['useful_tokens']:,} useful tokens, {work['masked_tokens']} of them masked, and "
        f"{work['useful_gflop']:,.0f} useful GFLOP."
    )


def disturbed(report: dict[str, Any]) -> str:
    """Say which turns shared the machine with other work; their times are too long."""
    names = [f"{t['variant']} in round {t['round']}" for t in report["turns"] if not is_quiet(t, report)]
    return f"**Not quiet:** other work ran beside {', '.join(names)}; do not quote these times." if names else ""


def is_quiet(found: dict[str, Any], report: dict[str, Any]) -> bool:
    highest = max(p["torch.mm"] for t in report["turns"] for p in t["matmul_gflops"])
    return min(p["torch.mm"] for p in found["matmul_gflops"]) > QUIET * highest


def fairness(report: dict[str, Any]) -> str:
    tunables = "all variants" if report["about"]["tunables_for_all"] else "commbert only, as it does when it trains"
    check = report["check"]
    losses = ", ".join(f"{v} {r['losses'][0]:.6f}" for v, r in check.items())
    norms = ", ".join(f"{v} {r['encoder_gradient_norm']:.5f}" for v, r in check.items())
    return (
        f"Same computation: loss of step 0: {losses}; norm of the encoder's gradient: {norms}. No dropout. "
        "All words of a step's pairs are different, so encoding each word once saves commbert nothing here. "
        f"The masks come ready for the others and are drawn within the step by commbert. GLIBC_TUNABLES: {tunables}. "
        "Memory is the peak of the whole process on CPU and of the tensors on a GPU."
    )


if __name__ == "__main__":
    main()
