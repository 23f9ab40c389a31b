"""How fast data is made, against what one would use without commbert, and how it grows with the corpus.

    python tests/benchmarks/data.py [--what ratios|scale|stages|shards|reader|all] [--work DIR] [--out FILE.json]

* ``ratios``: commbert, the repaired public generator and ``datasets`` (data_alternatives.py) take turns on the same
  lines, each turn in processes of its own on one core, and make the same windows and pairs, which is checked first.
  ``generator`` writes masks and CSV as the public one does, ``generator_rows`` only the same rows, in Parquet.
* ``stages``: commbert's stages on one corpus with the settings of config.yaml, medians of several rounds.
* ``scale``: the same on corpora of 20 thousand, half a million and five million lines, cut into shards of equal size:
  lines per second and core, peak memory of every job, bytes of every table, and memory over time as a picture.
* ``shards``: the workflow (``snakemake data``) on one corpus in 1, 2 and 4 shards on one and two cores.
* ``reader``: tokens per second of the training reader on what ``scale`` made of its largest corpus.

The corpora are built by data_corpus.py below --work. Times are what they are: nothing is asserted about them; the
report says which of them shared their core. Writes FILE.json (all raw figures; parts that were not measured this time
are kept from the file), FILE.md (tables) and FILE.svg (memory). All of commbert's side is in data_ours.py.
"""

import argparse
import datetime
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import data_corpus
from data_ours import LINES_PER_SHARD, ROOT, Ours
from data_process import Ran, run, thinned, total
from data_report import draw_memory, markdown

from commbert.artifacts import read_json, write_json, write_text
from commbert.monitoring import machine
from commbert.provenance import commit, versions

HERE = Path(__file__).resolve().parent
ALTERNATIVES = {
    "generator": ["generator", "--masks"],
    "generator_rows": ["generator", "--parquet"],
    "datasets": ["datasets"],
}
ROWS_TOLERANCE = 0.01
"""commbert counts differently at the edges: held-out pairs once each, words of 100 characters at most."""
CHECKED_SIZE, EQUALITY_TOLERANCE = "20k", 0.001
"""The held-out directories, of one file each or so, are the difference that remains."""
CURVE_POINTS = 400
_SHARD = re.compile(r"\d+-of-\d+")


def main() -> None:
    args = arguments()
    report = read_json(args.out) if args.out.is_file() else {}
    parts = list(PARTS) if args.what == "all" else [args.what]
    for name in parts:
        print(f"{name}:", flush=True)
        report[name] = {"about": about(args), **PARTS[name](args)}
        write_json(args.out, report)
    if report.get("scale"):
        draw_memory(report["scale"], args.out.with_suffix(".svg"))
    write_text(args.out.with_suffix(".md"), markdown(report))
    print(markdown(report))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--work", type=Path, default=Path("results/benchmark_data"), help="corpora and what is made")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmark_data.json"))
    parser.add_argument("--base", type=Path, default=Path("results/base"), help="folder of the base model")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="interpreter of our side, such as that of `make run`, which has no pandas for pyarrow to import",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--cores", type=_cores, default=[2, 3], help="numbers of the cores that are used, with commas")
    parser.add_argument("--ratios-size", choices=data_corpus.SIZES, default="71k")
    parser.add_argument("--stages-size", choices=data_corpus.SIZES, default="500k")
    parser.add_argument("--shards-size", choices=data_corpus.SIZES, default="500k")
    parser.add_argument("--scale-sizes", type=lambda s: s.split(","), default=["20k", "500k", "5M"])
    parser.add_argument(
        "--trainer", type=Path, default=Path("reports/benchmark_training_minilm_cpu.json"), help="its own benchmark"
    )
    args = parser.parse_args()
    if not (args.base / "tokenizer.json").is_file():
        sys.exit(f"{args.base}: expected the base model. Run `make data`, or name a folder with --base.")
    return args


def _cores(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "cores": args.cores,
        "rounds": args.rounds,
        "lines_per_shard": LINES_PER_SHARD,
    }


def ours(args: argparse.Namespace, *, same_rows: bool = False) -> Ours:
    return Ours(args.python, args.base.resolve(), same_rows=same_rows)


def corpus_of(args: argparse.Namespace, size: str) -> tuple[Path, dict[str, Any]]:
    """Return a corpus and its manifest, built if it is not there."""
    folder = data_corpus.build(args.work, size)
    manifest: dict[str, Any] = read_json(folder.with_suffix(".json"))
    return folder, manifest


# Ratios.


def measure_ratios(args: argparse.Namespace) -> dict[str, Any]:
    """Let the variants take turns, and compare what they made and what it took."""
    equality = check_rows(args)
    corpus, manifest = corpus_of(args, args.ratios_size)
    imports = _import_cost(args)
    turns: list[dict[str, Any]] = []
    for number in range(1, args.rounds + 1):
        for variant in ("commbert", *ALTERNATIVES):
            turn = _our_turn(args, corpus, imports) if variant == "commbert" else _turn_of(variant, args, corpus)
            turns.append({"round": number, "variant": variant, **turn})
            print(f"  round {number} {variant}: {turn['cpu_s']:.2f} s CPU, {turn['wall_s']:.2f} s", flush=True)
    _compare_rows(turns)
    figures = {v: _figures([t for t in turns if t["variant"] == v]) for v in ("commbert", *ALTERNATIVES)}
    mine = figures["commbert"]
    names = ("cpu_s", "wall_s", "process_cpu_s", "process_wall_s")
    return {
        "size": args.ratios_size,
        "corpus": manifest,
        "variants": figures,
        "ratios": {v: {n: figures[v][n] / mine[n] for n in names} for v in ALTERNATIVES},
        "imports": imports,
        "check": equality,
        "turns": turns,
    }


def check_rows(args: argparse.Namespace) -> dict[str, float]:
    """Stop unless windows that fit have the same tokens and the positive pairs are the same, on the smallest corpus."""
    corpus, _ = corpus_of(args, CHECKED_SIZE)
    side, mine = ours(args, same_rows=True), args.work / "check/ours"
    _run_stages(side, corpus, mine, 1, args)
    for variant in ALTERNATIVES:
        _run_alternative(variant, args, corpus, args.work / "check" / variant)
    theirs = args.work / "check/generator_rows"
    # In a process of its own: what this one holds would count as the memory of those that it starts.
    script = [sys.executable, str(HERE / "data_check.py"), "--ours", str(mine), "--theirs", str(theirs)]
    found: dict[str, float] = json.loads(run(script, cores=args.cores[:1], log=args.work / "logs/check.log").stdout)
    shutil.rmtree(args.work / "check")
    print(f"  same rows: {found}", flush=True)
    if min(found["windows_equal"], found["positives_equal"]) < 1 - EQUALITY_TOLERANCE:
        sys.exit(f"The variants make different rows: {found}.")
    return found


def _our_turn(args: argparse.Namespace, corpus: Path, imports: dict[str, Any]) -> dict[str, Any]:
    out = args.work / "turn"
    ran = _run_stages(ours(args, same_rows=True), corpus, out, 1, args)
    jobs = [(stage, r) for stage, runs in ran.items() for r in runs]
    counts = ours(args).counts(out)
    process = total([r for _, r in jobs])
    found = {
        "process_cpu_s": process["cpu_s"],
        "process_wall_s": process["wall_s"],
        "cpu_s": process["cpu_s"] - sum(imports[stage]["cpu_s"] for stage, _ in jobs),
        "wall_s": process["wall_s"] - sum(imports[stage]["wall_s"] for stage, _ in jobs),
        "peak_rss_mib": process["peak_rss_mib"],
        "is_quiet": process["is_quiet"],
        "stages": {stage: total(runs) for stage, runs in ran.items()},
        **counts,
        "bytes_written": sum(_bytes_by_table(out).values()),
    }
    shutil.rmtree(out)
    return found


def _import_cost(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return what starting a process of each stage and importing its modules takes: the median of several."""
    side = ours(args)
    stages = dict.fromkeys(stage for stage, _ in side.stages(args.work, args.work, 1))
    found = {}
    for stage in stages:
        runs = [
            run(side.import_command(stage), cores=args.cores[:1], log=args.work / "logs/import.log")
            for _ in range(args.rounds + 1)
        ][1:]
        found[stage] = {n: round(median(getattr(r, n) for r in runs), 3) for n in ("cpu_s", "wall_s")}
    return found


def _turn_of(variant: str, args: argparse.Namespace, corpus: Path) -> dict[str, Any]:
    out = args.work / "turn"
    ran = _run_alternative(variant, args, corpus, out)
    shutil.rmtree(out)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    # The whole process as its parent sees it, as for commbert's.
    process = {"process_cpu_s": ran.cpu_s, "process_wall_s": ran.wall_s, "peak_rss_mib": ran.peak_rss_mib}
    return {**found, **process, "is_quiet": ran.as_dict()["is_quiet"]}


def _run_alternative(variant: str, args: argparse.Namespace, corpus: Path, out: Path) -> Ran:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(HERE / "data_alternatives.py"), *ALTERNATIVES[variant], "--corpus", str(corpus)]
    command += ["--tokenizer", str(args.base), "--out", str(out)]
    return run(command, cores=args.cores[:1], log=args.work / f"logs/{variant}.log")


def _compare_rows(turns: list[dict[str, Any]]) -> None:
    """Stop unless all variants made as many rows: times of different work cannot be compared."""
    for name in ("n_lines", "n_windows", "n_pairs"):
        found = {t["variant"]: t[name] for t in turns}
        print(f"  {name}: {', '.join(f'{v} {n:,}' for v, n in found.items())}", flush=True)
        if max(found.values()) - min(found.values()) > ROWS_TOLERANCE * max(found.values()):
            sys.exit(f"The variants differ in {name} by more than {ROWS_TOLERANCE:.0%}: {found}.")


def _figures(turns: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("cpu_s", "wall_s", "process_cpu_s", "process_wall_s", "peak_rss_mib", "bytes_written", "cache_bytes")
    found: dict[str, Any] = {n: median(t[n] for t in turns) for n in names if n in turns[0]}
    found |= {f"{n}_range": [min(t[n] for t in turns), max(t[n] for t in turns)] for n in ("cpu_s", "wall_s")}
    found |= {n: turns[0][n] for n in ("n_lines", "n_windows", "n_pairs")}
    found["lines_per_cpu_s"] = found["n_lines"] / found["cpu_s"]
    found["disturbed_turns"] = sum(not t["is_quiet"] for t in turns)
    return found


# Stages and scale.


def measure_stages(args: argparse.Namespace) -> dict[str, Any]:
    """Run the stages on one corpus several times; medians by stage."""
    corpus, manifest = corpus_of(args, args.stages_size)
    n_shards = shards_of(manifest["n_lines"])
    out = args.work / "stages"
    _warm_up(args)
    rounds = []
    for _ in range(args.rounds):
        ran = _run_stages(ours(args), corpus, out, n_shards, args)
        rounds.append({stage: total(runs) for stage, runs in ran.items()})
    shutil.rmtree(out)
    return {
        "size": args.stages_size,
        "corpus": manifest,
        "stages": {s: _median_of([r[s] for r in rounds], manifest["n_lines"]) for s in rounds[0]},
        "rounds": rounds,
    }


def _median_of(runs: list[dict[str, Any]], n_lines: int) -> dict[str, Any]:
    found = {n: median(r[n] for r in runs) for n in ("wall_s", "cpu_s", "peak_rss_mib")}
    return {**found, **_rates(found["cpu_s"], n_lines), "is_quiet": all(r["is_quiet"] for r in runs)}


def _rates(cpu_s: float, n_lines: int) -> dict[str, float]:
    return {"lines_per_core_s": n_lines / cpu_s, "us_per_line": 1e6 * cpu_s / n_lines}


def measure_scale(args: argparse.Namespace) -> dict[str, Any]:
    """Run the stages once on each corpus, looking at their memory all the time."""
    _warm_up(args)
    sizes = {}
    for size in args.scale_sizes:
        corpus, manifest = corpus_of(args, size)
        out = args.work / "scale" / size
        ran = _run_stages(ours(args), corpus, out, shards_of(manifest["n_lines"]), args, is_sampled=True)
        everything = total([r for runs in ran.values() for r in runs])
        by_table = _bytes_by_table(out)
        n_lines = manifest["n_lines"]
        sizes[size] = {
            "corpus": manifest,
            "shards": shards_of(n_lines),
            "counts": ours(args).counts(out),
            "all": {**everything, **_rates(everything["cpu_s"], n_lines)},
            "stages": {s: {**total(runs), **_rates(total(runs)["cpu_s"], n_lines)} for s, runs in ran.items()},
            "bytes": by_table,
            "bytes_per_corpus_byte": {t: n / manifest["n_bytes"] for t, n in by_table.items()},
            "jobs": [
                {"stage": s, **r.as_dict(), "curve": thinned(r.curve, CURVE_POINTS)}
                for s, rs in ran.items()
                for r in rs
            ],
        }
        print(f"  {size}: {everything}", flush=True)
    return {"sizes": sizes}


def _warm_up(args: argparse.Namespace) -> None:
    """Run everything once on the smallest corpus: programs are then compiled and in the page cache."""
    corpus, _ = corpus_of(args, CHECKED_SIZE)
    _run_stages(ours(args), corpus, args.work / "warm", 1, args)
    shutil.rmtree(args.work / "warm")


def shards_of(n_lines: int) -> int:
    """Return the number of shards of about equal size."""
    return max(1, round(n_lines / LINES_PER_SHARD))


def _run_stages(
    side: Ours, corpus: Path, out: Path, n_shards: int, args: argparse.Namespace, *, is_sampled: bool = False
) -> dict[str, list[Ran]]:
    """Run all jobs one after another on one core, into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    ran: dict[str, list[Ran]] = {}
    for stage, command in side.stages(corpus, out, n_shards):
        log = args.work / f"logs/{stage}.log"
        ran.setdefault(stage, []).append(run(command, cores=args.cores[:1], log=log, is_sampled=is_sampled))
    return ran


def _bytes_by_table(out: Path) -> dict[str, int]:
    """Return the bytes of every kind of file below a folder; shards of one table count together."""
    found: dict[str, int] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = _SHARD.sub("*", path.relative_to(out).as_posix())
        found[name] = found.get(name, 0) + path.stat().st_size
    return found


# Shards.


def measure_shards(args: argparse.Namespace) -> dict[str, Any]:
    """Run the workflow with several numbers of shards and cores."""
    corpus, manifest = corpus_of(args, args.shards_size)
    _workflow(args, corpus_of(args, CHECKED_SIZE)[0], 1, 1)
    runs = []
    for n_shards in (1, 2, 4):
        for n_cores in (1, 2):
            if n_cores <= len(args.cores):
                walls = [_workflow(args, corpus, n_shards, n_cores) for _ in range(args.rounds)]
                runs.append(
                    {"shards": n_shards, "cores": n_cores, **{n: median(w[n] for w in walls) for n in walls[0]}}
                )
                print(f"  {runs[-1]}", flush=True)
    first = runs[0]["wall_s"]
    for found in runs:
        alone = next(r for r in runs if r["shards"] == found["shards"] and r["cores"] == 1)
        found |= {"speed_up": first / found["wall_s"], "speed_up_by_cores": alone["wall_s"] / found["wall_s"]}
    return {"size": args.shards_size, "corpus": manifest, "runs": runs}


def _workflow(args: argparse.Namespace, corpus: Path, n_shards: int, n_cores: int) -> dict[str, float]:
    """Make the base folder, which is not timed, then the data; then ask for it again, which is Snakemake's own time."""
    folder = args.work / "workflow"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    overlay = folder / "overlay.json"
    overlay.write_text(json.dumps(ours(args).workflow(corpus, n_shards)))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", "none", "--cores", str(n_cores)]
    command += ["--configfile", str(ROOT / "config.yaml"), str(overlay.resolve()), "--"]
    cores, log = args.cores[:n_cores], args.work / "logs/workflow.log"
    run([*command, "results/base"], cores=cores, log=log)
    made = run([*command, "data"], cores=cores, log=log)
    again = run([*command, "data"], cores=cores, log=log)
    shutil.rmtree(folder)
    return {"wall_s": made.wall_s, "cpu_s": made.cpu_s, "nothing_to_do_s": again.wall_s}


# Reader.


def measure_reader(args: argparse.Namespace) -> dict[str, Any]:
    """Read what ``scale`` made as training does, on one core, and set it against what the trainer consumes."""
    made = [s for s in args.scale_sizes if (args.work / "scale" / s).is_dir()]
    if not made:
        sys.exit(f"{args.work / 'scale'}: expected what --what scale makes, found nothing. Run it first.")
    size = made[-1]
    command = [sys.executable, str(HERE / "data_reader.py"), "--tables", str(args.work / "scale" / size)]
    command += ["--model", str(args.work / "scale" / size / "tokenizer/tokenizer")]
    rounds = []
    for _ in range(args.rounds):
        ran = run(command, cores=args.cores[:1], log=args.work / "logs/reader.log")
        rounds.append({**json.loads(ran.stdout.splitlines()[-1]), "is_quiet": ran.as_dict()["is_quiet"]})
    found = {"size": size, **{n: median(r[n] for r in rounds) for n in rounds[0]}, "rounds": rounds}
    rate = found["tokens_per_s"]
    if not args.trainer.is_file():
        return {**found, "trainer_tokens_per_s": None, "why": f"no {args.trainer}: run `make benchmark`"}
    trainer = read_json(args.trainer)["variants"]["commbert"]["useful_tokens_per_s"]
    return {**found, "trainer_tokens_per_s": trainer, "times_as_fast": rate / trainer}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ratios": measure_ratios,
    "stages": measure_stages,
    "scale": measure_scale,
    "shards": measure_shards,
    "reader": measure_reader,
}

if __name__ == "__main__":
    main()
