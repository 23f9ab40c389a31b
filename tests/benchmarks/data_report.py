"""The tables and the picture of the data benchmark."""

from pathlib import Path
from typing import Any

EXPLAINED = (
    "Times are of processes pinned to one core, one thread each. CPU seconds are user and system time. Without "
    "imports: for the alternatives all after their imports; for commbert the sum of all jobs less the median time of "
    "processes that only import what each job imports. Whole: with the imports of all jobs. Memory is the highest "
    "resident set of a process (getrusage)."
)


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of what was measured."""
    writers = {"ratios": _ratios, "stages": _stages, "scale": _scale, "shards": _shards, "reader": _reader}
    parts = ["# Data benchmark", EXPLAINED]
    for name, writer in writers.items():
        if name in report:
            parts += [f"## {name.capitalize()}", setting(report[name]), writer(report[name])]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def table(head: str, rows: list[list[str]]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def setting(part: dict[str, Any]) -> str:
    a, corpus = part["about"], part.get("corpus")
    libraries = ", ".join(f"{p} {a['versions'].get(p)}" for p in ("tokenizers", "transformers", "numpy", "pyarrow"))
    text = f"{a['machine']['cpu']}, cores {a['cores']}; {libraries}; commit {a['commit']}; {a['date']}."
    return f"{text} Corpus {part['size']}: {_corpus(corpus)}." if corpus else text


def _corpus(corpus: dict[str, Any]) -> str:
    return (
        f"{corpus['n_files']:,} files, {corpus['n_lines']:,} lines of {corpus['bytes_per_line']} bytes, "
        f"{corpus['distinct_lines_pct']} % of them distinct, {corpus['n_words']:,} words"
    )


def _ratios(part: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{f['cpu_s']:.2f} ({f['cpu_s_range'][0]:.2f} to {f['cpu_s_range'][1]:.2f})",
            f"{f['wall_s']:.2f}",
            f"{f['process_cpu_s']:.2f}",
            f"{f['process_wall_s']:.2f}",
            f"{f['lines_per_cpu_s']:,.0f}",
            f"{f['peak_rss_mib']:,.0f}",
            f"{f['bytes_written'] / 2**20:.1f}" + (f" + {f['cache_bytes'] / 2**20:.1f}" if "cache_bytes" in f else ""),
            f"{f['n_windows']:,}",
            f"{f['n_pairs']:,}",
        ]
        for name, f in part["variants"].items()
    ]
    head = (
        "variant | CPU s | wall s | CPU s, whole | wall s, whole | lines/CPU s | peak MiB | MiB written (+ cache) "
        "| windows | pairs"
    )
    names = ("cpu_s", "wall_s", "process_cpu_s", "process_wall_s")
    ratios = [[name, *(f"{r[n]:.1f}" for n in names)] for name, r in part["ratios"].items()]
    against = table("times commbert's | CPU s | wall s | CPU s, whole | wall s, whole", ratios)
    return "\n\n".join([table(head, rows), against, _disturbed(part["turns"], "variant")])


def _disturbed(turns: list[dict[str, Any]], name: str) -> str:
    """Say which turns shared their core with other work, or waited; their wall times are too long."""
    found = [f"{t[name]} in round {t['round']}" for t in turns if not t["is_quiet"]]
    return f"**Not quiet:** {', '.join(found)}; do not quote these wall times." if found else ""


_STAGE_HEAD = "CPU s | wall s | lines per core and s | us/line | peak MiB | quiet"


def _stage_cells(f: dict[str, Any]) -> list[str]:
    quiet = "yes" if f["is_quiet"] else "no"
    times = [f"{f['cpu_s']:.2f}", f"{f['wall_s']:.2f}"]
    return [*times, f"{f['lines_per_core_s']:,.0f}", f"{f['us_per_line']:.2f}", f"{f['peak_rss_mib']:,.0f}", quiet]


def _stages(part: dict[str, Any]) -> str:
    return table(f"stage | {_STAGE_HEAD}", [[s, *_stage_cells(f)] for s, f in part["stages"].items()])


def _scale(part: dict[str, Any]) -> str:
    sizes = part["sizes"]
    corpora = "\n".join(f"* {size}: {_corpus(f['corpus'])}" for size, f in sizes.items())
    rows = [
        [size, str(f["shards"]), stage, str(cells["jobs"]), *_stage_cells(cells)]
        for size, f in sizes.items()
        for stage, cells in [*f["stages"].items(), ("all", f["all"])]
    ]
    names = sorted({name for f in sizes.values() for name in f["bytes"]})
    tables = [
        [name, *(f"{100 * f['bytes_per_corpus_byte'].get(name, 0):.2f}" for f in sizes.values())] for name in names
    ]
    sums = [f"{100 * sum(f['bytes_per_corpus_byte'].values()):.1f}" for f in sizes.values()]
    on_disk = table("bytes as % of the corpus text | " + " | ".join(sizes), [*tables, ["all", *sums]])
    return "\n\n".join([corpora, table(f"corpus | shards | stage | jobs | {_STAGE_HEAD}", rows), on_disk])


def _shards(part: dict[str, Any]) -> str:
    rows = [
        [
            str(r["shards"]),
            str(r["cores"]),
            f"{r['wall_s']:.1f}",
            f"{r['cpu_s']:.1f}",
            f"{r['nothing_to_do_s']:.1f}",
            f"{r['speed_up']:.2f}",
            f"{r['speed_up_by_cores']:.2f}",
        ]
        for r in part["runs"]
    ]
    head = (
        "shards | cores | wall s | CPU s | wall s with nothing to do | times as fast as 1 shard, 1 core "
        "| times as fast as 1 core"
    )
    return table(head, rows)


def _reader(part: dict[str, Any]) -> str:
    trainer = part["trainer_tokens_per_s"]
    against = f"{trainer:,.0f}, of which it is {part['times_as_fast']:.0f} times" if trainer else part.get("why", "")
    return (
        f"Corpus {part['size']}: {part['tokens_per_s']:,.0f} tokens/s on one core ({part['ms_per_step']:.2f} ms for a "
        f"step of {part['tokens_per_step']:,.0f} tokens), opened in {part['open_s']:.2f} s, "
        f"{part['peak_rss_mib']:,.0f} MiB. The CPU trainer's tokens/s: {against}."
    )


def draw_memory(part: dict[str, Any], path: Path) -> None:
    """Draw memory over time of every job, one picture per corpus."""
    from matplotlib.figure import Figure

    sizes = {s: f for s, f in part["sizes"].items() if s != "20k"} or part["sizes"]
    figure = Figure(figsize=(6 * len(sizes), 4), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for ax, (size, found) in zip(axes, sizes.items(), strict=True):
        stages = list(dict.fromkeys(job["stage"] for job in found["jobs"]))
        for job in found["jobs"]:
            seconds, mib = zip(*job["curve"], strict=True) if job["curve"] else ((), ())
            ax.plot(seconds, mib, color=f"C{stages.index(job['stage'])}", linewidth=1)
        for number, stage in enumerate(stages):
            ax.plot([], [], color=f"C{number}", label=stage)
        ax.set(title=f"{size} lines, {found['shards']} shard(s)", xlabel="seconds since the job's start")
        ax.grid(visible=True, alpha=0.3)
    axes[0].set(ylabel="resident memory of a job (MiB)", ylim=(0, None))
    axes[-1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
