"""``commbert shell`` with lines that are piped in and lines that are typed."""

import fcntl
import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest

import inference_case as case
import tiny
from commbert.cli.asking import Answers
from commbert.cli.conversation import Conversation
from commbert.cli.shell import _converse, history_file
from commbert.errors import CommbertError, DataError
from commbert.inference.models import load_model


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell")
    case.write_model(folder / "model")
    (folder / "words.txt").write_text("\n".join(tiny.WORDS))
    return folder


@pytest.fixture(scope="module")
def model(at):
    return load_model(at / "model", device="cpu")


@pytest.fixture
def say(at, model, capsys):
    """Answer lines as JSON."""

    def scored(asked, question, options):
        assert asked is model
        return [SimpleNamespace(option=o, score=-1.5, probability=len(o) / 10, n_pieces=1) for o in options]

    conversation = Conversation(
        model, Answers(as_json=True), words=at / "words.txt", among=at / "words.txt", choose=scored
    )

    def run(line):
        goes_on = conversation.answer(line)
        return goes_on, [json.loads(one) for one in capsys.readouterr().out.splitlines()]

    return run


def test_each_line_is_answered_by_its_use(say):
    assert say("  harq [MASK] slot ")[1][0]["masks"]
    assert say("sim harq rlc")[1][0].keys() == {"a", "b", "cosine"}
    assert say("sim the harq | harq of rlc")[1][0]["b"] == "harq of rlc"
    assert len(say("near harq 3")[1][0]["neighbours"]) == 3
    assert len(say("near harq")[1][0]["neighbours"]) == 10
    assert say("near 5")[1][0]["word"] == "5"
    assert say("near the harq 2")[1][0]["word"] == "the harq"
    assert say("find harq")[1][0]["hits"][0]["text"] == "harq"
    assert "quit" in say("help")[1][0]["help"]
    assert say("") == (True, [])
    assert say("quit") == (False, [])
    assert say("find [MASK] in it")[1][0]["masks"]


def test_qa_asks_with_the_question_and_its_options(say):
    (found,) = say("qa who sends? | ue | harq |  the gnb")[1]
    assert found["question"] == "who sends?"
    assert [(o["option"], o["probability"]) for o in found["options"]] == [("ue", 0.2), ("harq", 0.4), ("the gnb", 0.7)]


def test_qa_is_shown_likeliest_first(at, model, capsys):
    scores = [
        SimpleNamespace(option=o, score=-1.0, probability=p, n_pieces=2) for o, p in (("ue", 0.25), ("gnb", 0.75))
    ]
    shown = Conversation(model, Answers(as_json=False), words=None, among=at, choose=lambda *_: scores)
    shown.answer("qa who? | ue | gnb")
    out = capsys.readouterr().out
    assert 0 < out.index("gnb") < out.index("ue ")
    assert "0.7500" in out


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("simm a b", "Did you mean sim?"),
        ("Quit", "Did you mean quit?"),
        ("hello there", "expected a command or a text with \\[MASK\\], found 'hello'"),
        ("sim a", "found 1 part"),
        ("sim a | ", "expected sim A B"),
        ("near", "expected near WORD"),
        ("near x 0", "K from 1 to 10000"),
        ("find", "expected find TEXT"),
        ("qa only a question", "found 0 option"),
        ("qa q | one", "found 1 option"),
        ("qa q | a | ", "an empty part"),
        ("[MASK] " + "a " * 80, "at most 64 tokens"),
        ("sim a\udcff b", "UTF-8"),
    ],
)
def test_a_mistake_is_named(say, line, named):
    with pytest.raises(CommbertError, match=named):
        say(line)


def test_nothing_that_goes_wrong_ends_the_conversation(caplog):
    def answer(line):
        if line == "mistake":
            raise DataError("wrong")
        if line == "bug":
            raise RuntimeError("broken")
        if line == "stop":
            raise KeyboardInterrupt
        said.append(line)
        return line != "quit"

    said = []
    assert not _converse(answer, iter(["mistake", "bug", "stop", "good", "quit", "never"]), may_stop=True)
    assert said == ["good", "quit"]
    assert _converse(answer, iter(["good"]), may_stop=False)
    with pytest.raises(KeyboardInterrupt):
        _converse(answer, iter(["stop"]), may_stop=False)
    with pytest.raises(BrokenPipeError):
        _converse(lambda _: (_ for _ in ()).throw(BrokenPipeError()), iter(["x"]), may_stop=True)


def test_the_history_lies_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert history_file() == tmp_path / "state" / "commbert" / "history"
    for unusable in ("", "relative/state"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert history_file() == tmp_path / ".local" / "state" / "commbert" / "history"


def command(at, *more):
    words = ["--words", str(at / "words.txt"), "--in", str(at / "words.txt"), "--device", "cpu"]
    return [sys.executable, "-m", "commbert", "shell", "--model", str(at / "model"), *words, *more]


@pytest.mark.slow
def test_piped_lines_are_answered_without_a_prompt(at):
    lines = b"harq [MASK]\nsim harq rlc\nnonsense\n\xff\xfe [MASK]\nnear harq 2\nquit\nnear harq 2\n"
    done = subprocess.run(command(at, "--json"), input=lines, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [next(iter(a)) for a in answers] == ["text", "a", "word"]
    assert done.stderr.count(b"error: ") == 2
    assert b"Traceback" not in done.stderr
    good = subprocess.run(command(at), input=b"sim harq rlc\n", capture_output=True, timeout=120, check=False)
    assert (good.returncode, good.stderr) == (0, b"")
    assert b"commbert>" not in good.stdout


CTRL_C = b"\x03"
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")


def typed(at, env, keys):
    """Type keys at a terminal, each when the text before it has come, and return all that was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(at),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so that Ctrl-C reaches it
    )
    os.close(theirs)
    screen, waiting, seen, again = b"", list(keys), 0, b""
    try:
        while True:
            if not select.select([ours], [], [], 10 if again else 120)[0]:
                assert again, f"silent after {screen!r}"
                os.write(ours, again)  # Python hears no Ctrl-C between its prompt and its wait: a user hits it twice
                again = b""
            try:
                screen += os.read(ours, 65536)
            except OSError:  # the terminal is gone with the process
                break
            if waiting and b"commbert> " in screen[seen:]:
                seen, keys = len(screen), waiting.pop(0)
                again = CTRL_C if keys.endswith(CTRL_C) else b""
                os.write(ours, keys)
        code = process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return code, CONTROL.sub(b"", screen).decode()


@pytest.mark.slow
def test_typed_lines_are_answered_kept_and_called_back(at, tmp_path):
    env = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path), "COLUMNS": "100", "LINES": "30"}
    code, shown = typed(at, env, [b"sim harq rlc\n", b"simm\n", b"near harq\x03", b"\x04"])
    assert code == 0
    assert shown.count("cosine") == 1
    assert "Did you mean sim?" in shown
    assert "Traceback" not in shown
    history = tmp_path / "commbert" / "history"
    assert history.read_text().splitlines() == ["sim harq rlc", "simm"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    # The key "up", twice: the line before the last one of the first shell.
    code, shown = typed(at, env, [b"\x1b[A\x1b[A\n", b"quit\n"])
    assert code == 0
    assert shown.count("cosine") == 1
    assert history.read_text().splitlines() == ["sim harq rlc", "simm", "sim harq rlc", "quit"]


@pytest.mark.slow
def test_a_history_that_cannot_be_kept_is_no_obstacle(at, tmp_path):
    (tmp_path / "commbert").write_text("a file where a folder should be")
    env = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path)}
    code, shown = typed(at, env, [b"sim harq rlc\n", b"quit\n"])
    assert code == 0
    assert "lines will not be kept" in shown
    assert "cosine" in shown
