"""What all subcommands share: the application, the kinds of options, and how a stage is run, timed and logged."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from commbert import __version__
from commbert.cli.recording import recorded
from commbert.errors import SettingsError, printable
from commbert.settings.base import Section
from commbert.settings.checking import section_from_json
from commbert.settings.runtime import RuntimeSettings
from commbert.starter import end_with_starter
from commbert.training.restarting import ATTEMPT

log_messages = logging.getLogger("commbert")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Domain embeddings from telecom source code. Usually called by Snakemake; every stage also runs alone.",
)
S = TypeVar("S", bound=Section)
Settings = Annotated[str, typer.Option(help="The stage's section of the configuration, as JSON, or a JSON file.")]
Log = Annotated[Path | None, typer.Option(help="Also write messages to this file.")]
Usage = Annotated[
    Path | None,
    typer.Option(help="Write what the stage took to this JSON file, and x.samples.parquet beside x.usage.json."),
]
In = Annotated[Path, typer.Option(help="Input.")]
Ins = Annotated[list[Path], typer.Option(help="Input; given once for each shard, in order.")]
Base = Annotated[Path | None, typer.Option(help="Folder of the base model; none for a model that is drawn anew.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads of the libraries.")]
Out = Annotated[Path, typer.Option(help="Output.")]
RUNTIME = "COMMBERT_RUNTIME"
"""How the section runtime reaches the stages that have no option for it."""
Runtime = Annotated[str, typer.Option(envvar=RUNTIME, help="The section runtime, as JSON; changes no result.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"commbert {__version__}")
        raise typer.Exit


def parsed(section: type[S], text: str, name: str) -> S:
    """Return a section from JSON text, or from a JSON file named by the text."""
    if text.startswith("@") or text.endswith(".json"):
        try:
            text = Path(text.removeprefix("@")).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--settings {text}: expected a text file with JSON, found: {error}.") from error
    return section_from_json(section, text, where=name)


def run_stage(
    stage: str,
    log: Path | None,
    usage: Path | None,
    work: Callable[[], Any],
    threads: int | None = None,
    *,
    runtime: str | None = None,
    root_pid: int | None = None,
    resumes: bool = False,
) -> Any:
    """Run a stage with its log and its usage record.

    Args:
        threads: What the libraries of the data stages may use; None: the stage sees to it itself.
        runtime: The section runtime, as JSON; None: that of the environment.
        root_pid: Process of the tree that is measured with all below it; None: this one.
        resumes: The stage may stop (its result is None), and goes on when it is started again.
    """
    set_up_logging(log)
    end_with_starter()
    if threads is not None:
        limit_threads(threads)
    settings = parsed(RuntimeSettings, runtime or os.environ.get(RUNTIME) or "{}", "runtime")
    with recorded(stage, usage, interval_s=settings.monitor_every_s, root_pid=root_pid, resumes=resumes) as record:
        result = work()
        record.is_done = result is not None or not resumes
    if isinstance(result, dict):
        log_messages.info("%s: done in %.1f s", stage, record.wall_s)
    return result


def limit_threads(threads: int) -> None:
    """Tell the libraries how many threads they may start, before they are imported: they have pools of their own."""
    for name in ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "ARROW_IO_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


class _OneLine(logging.Formatter):
    """Control characters in messages are shown, not sent to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def set_up_logging(log: Path | None) -> None:
    """Send messages to the terminal and, on the first process, to a file."""
    root = logging.getLogger("commbert")
    root.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    root.propagate = False
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(_OneLine("%(message)s"))
    root.addHandler(screen)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        # What was said before a restart belongs to the same story; who was there may still say its last.
        if os.environ.get(ATTEMPT, "0") == "0":
            log.open("wb").close()
        file = logging.FileHandler(log, mode="a", encoding="utf-8")
        file.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file)
