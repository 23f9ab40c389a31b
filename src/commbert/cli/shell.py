"""``commbert shell``: ask one model one question after the other."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from commbert.cli.asking import DEFAULT_MODEL, Answers, AsJson, Device, Model, load, shown
from commbert.cli.encode import FUNCTIONS
from commbert.cli.options import app
from commbert.errors import EXIT_USER_ERROR

_PROMPT = "commbert> "
_HISTORY_LINES = 1000
_log = logging.getLogger("commbert")


@app.command()
def shell(
    words: Annotated[Path | None, typer.Option("--words", help="Words for near; as for commbert neighbours.")] = None,
    among: Annotated[Path, typer.Option("--in", help="Where find searches; as for commbert search.")] = FUNCTIONS,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Ask a model from a prompt with a history; lines may also be piped in.

    A line with [MASK] is filled; qa, sim, near and find ask otherwise; help lists them. A mistake is answered in one
    line and never ends the shell; of piped lines with a mistake the exit code is 1.
    """
    is_interactive = sys.stdin.isatty()
    answers = Answers(as_json=json)
    loaded = load(model, device)
    from commbert.cli.conversation import Conversation

    conversation = Conversation(loaded, answers, words=words, among=among)
    if is_interactive:
        _log.info("%s on %s. help lists what can be asked, Ctrl-D ends.", loaded.folder, loaded.device)
        with _history():
            _converse(conversation.answer, _typed_lines(), may_stop=True)
    elif not _converse(conversation.answer, _piped_lines(), may_stop=False):
        sys.exit(EXIT_USER_ERROR)


def _converse(answer: Callable[[str], bool], lines: Iterator[str], *, may_stop: bool) -> bool:
    """Answer line after line until one says quit, and return whether all were answered.

    Args:
        answer: Returns whether the conversation goes on.
        lines: What is asked.
        may_stop: Ctrl-C stops an answer, not the conversation.
    """
    from commbert.errors import CommbertError

    all_answered = True
    for line in lines:
        try:
            if not answer(line):
                break
        except KeyboardInterrupt:
            if not may_stop:
                raise
            _log.info("stopped")
        except BrokenPipeError:
            raise
        except (CommbertError, OSError) as error:
            all_answered = False
            _log.error("error: %s", error)
        except Exception:
            # A bug of ours ends one answer; what was asked before stays on the screen.
            all_answered = False
            _log.exception("unexpected error; please report it")
    return all_answered


def _typed_lines() -> Iterator[str]:
    """Yield what is typed at the prompt; Ctrl-C drops a line, Ctrl-D ends."""
    while True:
        try:
            if sys.stdout.isatty():
                yield input(_PROMPT)
            else:  # the prompt is no answer: it stays out of the file that answers go to
                sys.stderr.write(_PROMPT)
                sys.stderr.flush()
                yield input()
        except KeyboardInterrupt:
            sys.stderr.write("\n")
        except UnicodeDecodeError:
            _log.error("error: expected UTF-8, found other bytes. Type it again.")
        except EOFError:
            sys.stderr.write("\n")
            return


def _piped_lines() -> Iterator[str]:
    from commbert.inference.texts import MAX_TEXT_BYTES

    while raw := sys.stdin.buffer.readline(MAX_TEXT_BYTES):
        # Bytes that are not UTF-8 become halves of characters, which are refused where the text is read.
        yield raw.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape").rstrip("\r\n")


def history_file() -> Path:
    """Return where lines are kept: XDG_STATE_HOME (its default is ~/.local/state), XDG base directories 0.8."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "commbert" / "history"


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Let lines be edited and called back, also those of earlier shells; only their owner may read the file."""
    try:
        import readline
    except ImportError:
        _log.info("This Python has no readline: lines cannot be edited and are not kept.")
        yield
        return
    path = history_file()
    readline.set_history_length(_HISTORY_LINES)
    readline.set_auto_history(True)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)
        readline.clear_history()
        readline.read_history_file(path)
    except OSError as error:
        _log.warning("%s: lines will not be kept: %s.", path, error.strerror)
        yield
        return
    n_before = readline.get_current_history_length()
    try:
        yield
    finally:
        try:
            # Appended, so that two shells at once keep both their lines; cut to the length set above.
            readline.append_history_file(max(0, readline.get_current_history_length() - n_before), path)
        except OSError as error:
            _log.warning("%s: lines were not kept: %s.", path, shown(str(error.strerror)))
