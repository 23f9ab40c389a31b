import os
import subprocess

import pytest

from commbert.corpus import fetching, repositories
from commbert.corpus.fetching import fetch_git
from commbert.errors import ArtifactError, SourceError
from commbert.settings.addresses import check_address
from commbert.settings.corpus import GitRules
from corpus_case import committed, found, git, read, repository

FILE = GitRules(protocols=("file",))
WEB = GitRules(protocols=("https", "ssh"), hosts=("github.com",))


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """Return a repository of two commits, with all that a tree can hold."""
    folder = tmp_path_factory.mktemp("upstream")
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "old.c").write_text("old\n")
    committed(folder)
    (folder / "old.c").unlink()
    for name, text in {
        "a.c": "int a;\n",
        "d/b.c": "$Format:%H$ $Id$\n",
        "d/secret.c": "export-ignore\n",
        "d/run.sh": "x\n",
        "e/empty": "",
        "e/big": "x" * 2000,
        "e/lfs": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "e/new\nline \x1b[31m.c": "n\n",
        "e/back\\slash": "b\n",
        os.fsdecode(b"e/n\xff.c"): "u\n",
        ".gitattributes": "secret.c export-ignore\n*.c export-subst ident text eol=crlf filter=x\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, newline="")
    (folder / "d/run.sh").chmod(0o755)
    (folder / "link").symlink_to("/etc/passwd")
    git(folder, "add", "--all")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    git(folder, "commit", "--quiet", "--message=m")
    return folder


@pytest.fixture(scope="module")
def commit(upstream):
    return git(upstream, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def fetched(upstream, commit, tmp_path_factory):
    out = tmp_path_factory.mktemp("fetched") / "s"
    fetch_git(repository(upstream, commit), FILE, out, timeout_s=60)
    return out


# Fetching


def test_one_commit_is_fetched_without_its_history_hooks_and_checkout(fetched, commit):
    assert git(fetched, "rev-list", "--count", commit) == "1"
    assert not (fetched / "hooks").exists()
    assert not (fetched / "a.c").exists()
    assert git(fetched, "rev-parse", "--is-bare-repository") == "true"


def test_an_older_commit_is_fetched_too(upstream, commit, tmp_path):
    older = git(upstream, "rev-parse", "HEAD~1")
    fetch_git(repository(upstream, older), FILE, tmp_path / "s", timeout_s=60)
    assert found(repository(upstream, older), tmp_path / "s") == {"old.c": b"old\n"}


def test_a_server_that_gives_no_bare_commit_is_asked_for_everything(upstream, commit, tmp_path, monkeypatch):
    older = git(upstream, "rev-parse", "HEAD~1")
    command = repositories.git_command
    asked = []

    def protocol_0(folder, *arguments):
        asked.append(arguments)
        return [*command(folder, "-c", "protocol.version=0"), *arguments]

    monkeypatch.setattr(fetching, "git_command", protocol_0)
    fetch_git(repository(upstream, older), FILE, tmp_path / "s", timeout_s=60)
    assert found(repository(upstream, older), tmp_path / "s") == {"old.c": b"old\n"}
    monkeypatch.undo()
    assert git(tmp_path / "s", "rev-list", "--count", "--all") == "2"


@pytest.mark.parametrize("wrong", ["0" * 40, "tree", "tag"])
def test_a_commit_that_is_none_is_refused_and_nothing_is_left(upstream, tmp_path, wrong):
    if wrong == "tree":
        wrong = git(upstream, "rev-parse", "HEAD^{tree}")
    elif wrong == "tag":
        git(upstream, "tag", "--force", "--annotate", "--message=m", "v1")
        wrong = git(upstream, "rev-parse", "v1")
    with pytest.raises(
        SourceError, match=r"source s: (expected commit [0-9a-f]{40} at file|the repository cannot be)"
    ) as caught:
        fetch_git(repository(upstream, wrong), FILE, tmp_path / "s", timeout_s=60)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_not_there_is_refused_with_what_git_says(tmp_path, commit):
    with pytest.raises(
        SourceError, match=r"source s: the repository cannot be fetched, git says: .*not appear to be a git"
    ):
        fetch_git(repository(tmp_path / "none", commit), FILE, tmp_path / "s", timeout_s=60)


def test_a_fetch_without_an_answer_names_the_setting_of_its_time_limit(upstream, commit, tmp_path, monkeypatch):
    def slow(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(SourceError, match=r"no answer within 3 s.*runtime\.fetch_timeout_s"):
        fetch_git(repository(upstream, commit), FILE, tmp_path / "s", timeout_s=3.0)


def test_a_machine_without_git_is_told_so(fetched, upstream, commit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"git cannot be run .*Install git"):
        fetch_git(repository(upstream, commit), FILE, tmp_path / "s", timeout_s=3.0)
    with pytest.raises(SourceError, match=r"git cannot be run .*Install git"):
        read(repository(upstream, commit), fetched)


def test_git_asks_nobody_and_obeys_no_configuration_of_the_machine(monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    monkeypatch.setenv("GIT_PROXY_COMMAND", "touch pwned")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -i key")
    environment = repositories.git_environment("https")
    assert "GIT_DIR" not in environment
    assert "GIT_PROXY_COMMAND" not in environment
    expected = {
        "GIT_ALLOW_PROTOCOL": "https",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_SSH_COMMAND": "ssh -i key",
    }
    assert expected.items() <= environment.items()


def test_a_repository_of_another_protocol_than_the_address_is_not_reached(upstream, commit, tmp_path):
    # url.<base>.insteadOf would turn an allowed address into another one; the configuration of the user is not read.
    (tmp_path / ".gitconfig").write_text(f'[url "file://{upstream}"]\n\tinsteadOf = https://github.com/org/name\n')
    given = repository(upstream, commit).model_copy(update={"url": "https://github.com/org/name"})
    environment = os.environ | {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:1"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        with pytest.raises(SourceError, match="cannot be fetched"):
            fetch_git(given, WEB, tmp_path / "s", timeout_s=20)


# Addresses


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("https://github.com/org/name", "https"),
        ("https://github.com:443/org/name.git", "https"),
        ("https://GitHub.com/org/name", "https"),
        ("ssh://git@github.com/org/name", "ssh"),
        ("ssh://github.com:22/~/name", "ssh"),
    ],
)
def test_an_address_of_an_allowed_protocol_and_host_is_taken(url, protocol):
    assert check_address(url, WEB.protocols, WEB.hosts) == protocol


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch pwned",
        "-oProxyCommand=x",
        "ext::sh -c touch% pwned",
        "fd::17/x",
        "http://github.com/org/name",
        "git://github.com/org/name",
        "file:///srv/name",
        "/srv/name",
        "../name",
        "name",
        "git@github.com:org/name",
        "https://evil.example/org/name",
        "https://github.com.evil.example/x",
        "https://evil.example#@github.com/x",
        "https://github.com#@evil.example/x",
        "https://github.com\\@evil.example/x",
        "https://evil.example?@github.com/x",
        "https://@github.com/x",
        "https://token@github.com/x",
        "https://github.com/x?token=SECRET",
        "https://github.com/x y",
        "https://github.com/x\nhost",
        "https://github.com:99999/x",
        "https://[github.com/x",
        "https:///x",
        "https://",
        "ssh://-oProxyCommand=x/y",
        "ssh://-x@github.com/y",
        "ssh://a@b@github.com/y",
        "HTTPS+x://github.com/y",
        "",
    ],
)
def test_any_other_address_is_refused_in_one_line_without_running_git(url, tmp_path, monkeypatch, commit):
    monkeypatch.setattr(subprocess, "run", None)
    given = repository(tmp_path, commit).model_copy(update={"url": url})
    with pytest.raises(SourceError, match=r"^source s: url .*: (expected|it)") as caught:
        fetch_git(given, WEB, tmp_path / "s", timeout_s=3.0)
    assert "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@github.com/x",
        "https://hunter2@github.com/x",
        "ssh://user:hunter2@github.com/x",
        "https://user:hunt/hunter2@github.com/x",
        "https://user:a@hunter2@github.com/x",
        "user:hunter2@github.com:x",
        "ftp://user:hunter2@github.com/x",
        "https://user:hunter2#x@github.com/y",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="url ") as caught:
        check_address(url, WEB.protocols, WEB.hosts)
    assert "hunter2" not in str(caught.value)


def test_a_file_address_needs_its_protocol_allowed_and_has_no_host():
    assert check_address("file:///srv/x", FILE.protocols, FILE.hosts) == "file"
    with pytest.raises(ValueError, match="without a host"):
        check_address("file://github.com/x", FILE.protocols, FILE.hosts)


# Reading


def test_the_files_of_the_commit_are_read_byte_by_byte_and_the_rest_is_named_with_its_reason(upstream, commit, fetched):
    assert found(repository(upstream, commit), fetched) == {
        "a.c": b"int a;\n",
        "d/b.c": b"$Format:%H$ $Id$\n",
        "d/secret.c": b"export-ignore\n",
        "d/run.sh": b"x\n",
        "e/empty": b"",
        "e/big": "too large",
        "e/lfs": "LFS pointer",
        "e/new\nline \x1b[31m.c": b"n\n",
        "e/back\\slash": b"b\n",
        "e/n\\xff.c": b"u\n",
        ".gitattributes": b"secret.c export-ignore\n*.c export-subst ident text eol=crlf filter=x\n",
        "link": "symbolic link",
        "module": "submodule",
    }


def test_files_come_in_the_order_that_no_number_of_shards_changes(upstream, commit, fetched):
    source = repository(upstream, commit)
    whole = [f.path for f in read(source, fetched)]
    three = source.model_copy(update={"shards": 3})
    assert [f.path for shard in range(3) for f in read(three, fetched, shard=shard)] == whole


def test_patterns_choose_the_paths(upstream, commit, fetched):
    files = found(repository(upstream, commit, include=("d/*.c",), exclude=("secret.c",)), fetched)
    assert {k: v for k, v in files.items() if v != "not included" and not k.startswith(("link", "module"))} == {
        "d/b.c": b"$Format:%H$ $Id$\n",
        "d/secret.c": "excluded",
    }


def test_what_is_left_out_is_never_asked_for(upstream, commit, fetched, monkeypatch):
    asked = []
    content = repositories._content
    monkeypatch.setattr(repositories, "_content", lambda blob, *a: asked.append(blob.name) or content(blob, *a))
    read(repository(upstream, commit, include=("a.c", "e/big")), fetched, max_bytes=100)
    assert asked == ["a.c"]


def test_a_repository_that_was_not_fetched_or_holds_another_commit_is_asked_for(upstream, fetched, commit, tmp_path):
    with pytest.raises(SourceError, match="source s: the repository was not fetched"):
        read(repository(upstream, commit))
    for folder, wanted in ((tmp_path, commit), (fetched, "0" * 40)):
        with pytest.raises(SourceError, match=f"source s: expected commit {wanted} in .*Run the stage fetch again"):
            read(repository(upstream, wanted), folder)


def test_hundreds_of_large_files_are_read_without_a_deadlock(tmp_path):
    (tmp_path / "r").mkdir()
    for i in range(300):
        (tmp_path / "r" / f"{i:0100d}").write_bytes(os.urandom(20_000) + b"%d" % i)
    source = repository(tmp_path / "r", committed(tmp_path / "r"))
    files = read(source, tmp_path / "r" / ".git", max_bytes=10**6)
    assert all(f.data.endswith(b"%d" % int(f.path)) for f in files)
    assert len(files) == 300


def test_reading_may_stop_in_the_middle(upstream, commit, fetched):
    from commbert.corpus.sources import files_of, selection_of

    source = repository(upstream, commit)
    files = files_of(source, fetched, selection_of(source, 0), max_bytes=1000)
    next(files)
    files.close()


def test_a_damaged_object_is_refused_with_the_name_of_its_file(tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    for i in range(3):
        (folder / f"f{i}").write_bytes(b"%d" % i * 99)
    source = repository(folder, committed(folder))
    blob = git(folder, "rev-parse", "HEAD:f1")
    path = folder / ".git" / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    whole = path.read_bytes()
    for damage in (b"", whole[:10], b"garbage", None):
        path.unlink(missing_ok=True)
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(SourceError, match=r"source s: .*Run the stage fetch again") as caught:
            read(source, folder / ".git")
        assert "\n" not in str(caught.value)


def tree_of(folder, entries):
    """Write a tree object by hand: git itself would refuse such names."""
    raw = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(blob) for mode, name, blob in entries)
    (folder / "raw").write_bytes(raw)
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--literally", str(folder / "raw"))
    return git(folder, "commit-tree", tree, "-m", "m")


def test_names_that_no_file_system_would_take_are_unsafe(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "raw").write_bytes(b"x")
    blob = git(tmp_path, "hash-object", "-w", str(tmp_path / "raw"))
    names = [b"../x", b"..", b"/etc/passwd", b"a", b"a"]
    commit = tree_of(tmp_path, [(b"100644", name, blob) for name in names] + [(b"100600", b"z", blob)])
    files = read(repository(tmp_path, commit), tmp_path / ".git")
    reasons = sorted((f.path, f.reason) for f in files)
    unsafe = [(name, "unsafe name") for name in ("..", "../x", "/etc/passwd")]
    assert reasons[:5] == [*unsafe, ("a", ""), ("a", "name stands twice")]


def test_reading_reaches_no_other_repository_for_what_is_missing(tmp_path, upstream, commit):
    """A repository may name a promisor and the program that serves it; reading must not run it."""
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "a").write_text("a")
    source = repository(folder, committed(folder))
    blob = git(folder, "rev-parse", "HEAD:a")
    (folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "remote.origin.url", f"file://{upstream}")
    git(folder, "config", "remote.origin.uploadpack", f"touch {tmp_path / 'pwned'};")
    with pytest.raises(SourceError, match=r"source s: .*Run the stage fetch again"):
        read(source, folder / ".git")
    assert not (tmp_path / "pwned").exists()


def test_a_full_disk_leaves_no_repository(upstream, commit, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "is_commit", full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        fetch_git(repository(upstream, commit), FILE, tmp_path / "s", timeout_s=60)
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_the_repository_replaces_is_read_as_the_commit_has_it(tmp_path):
    (tmp_path / "a").write_text("true")
    source = repository(tmp_path, committed(tmp_path))
    (tmp_path / "a").write_text("fake")
    git(tmp_path, "replace", git(tmp_path, "rev-parse", "HEAD:a"), git(tmp_path, "hash-object", "-w", "a"))
    assert found(source, tmp_path / ".git") == {"a": b"true"}


def test_a_folder_that_is_missing_in_the_repository_is_refused_and_not_passed_over(tmp_path):
    for name in ("a/x", "b/y"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    source = repository(tmp_path, committed(tmp_path))
    tree = git(tmp_path, "rev-parse", "HEAD:b")
    (tmp_path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(SourceError, match=r"source s: git says .*the repository is damaged. Run the stage fetch again"):
        read(source, tmp_path / ".git")
