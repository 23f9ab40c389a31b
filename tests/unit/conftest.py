import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = {
    "ingest": {"split": {"validation": 0.17, "test": 0.17}},
    "words": {"english_words": 500},
    "tokenizer": {"min_count": 3},
    "windows": {"max_length": 48},
    "pairs": {"subsample": 0.05, "heldout_positives": 100},
}
_CHAIN = """
import json, sys
from commbert import cli
for command in json.loads(sys.argv[1]):
    sys.argv = ["commbert", *command]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
"""


class Chain:
    """The folders that hold what the data stages wrote."""

    def __init__(self, tree: Path, base: Path, out: Path) -> None:
        self.tree, self.base, self.out = tree, base, out

    def __getattr__(self, name: str) -> Path:
        """Return a table by name: ``chain.files``, ``chain.windows_train``."""
        return self.out / f"{name}.parquet"

    def commands(self) -> list[list[str]]:
        def options(stage: str, settings: dict, **paths: Path) -> list[str]:
            files = [part for name, path in paths.items() for part in (f"--{name.replace('_', '-')}", str(path))]
            return [stage, "--settings", json.dumps(settings), *files]

        splits = ("train", "validation", "test")
        sources = [{"kind": "path", "name": "tree", "path": str(self.tree), "include": ["*.py"]}]
        read = {"files": self.files, "lines": self.lines}
        return [
            options("ingest", {"sources": sources, **SETTINGS["ingest"]}, files_out=self.files, lines_out=self.lines,
                    summary_out=self.out / "ingest.json"),
            options("words", SETTINGS["words"], **read, words_out=self.corpus_words, line_words_out=self.line_words,
                    english_out=self.out / "english.json", summary_out=self.out / "words.json"),
            options("tokenizer", SETTINGS["tokenizer"], base=self.base, **read, corpus_words=self.corpus_words,
                    english=self.out / "english.json", tokenizer_out=self.out / "tokenizer", words_out=self.words,
                    receipts_out=self.out / "receipts.json"),
            options("windows", SETTINGS["windows"], **read, tokenizer=self.out / "tokenizer",
                    **{f"{s}_out": self.out / f"windows_{s}.parquet" for s in splits},
                    summary_out=self.out / "windows.json"),
            options("pairs", SETTINGS["pairs"], files=self.files, line_words=self.line_words, words=self.words,
                    **{f"{s}_out": self.out / f"pairs_{s}.parquet" for s in splits}, known_out=self.known,
                    summary_out=self.out / "pairs.json"),
        ]  # fmt: skip

    def start(self, hash_seed: str) -> subprocess.Popen:
        self.out.mkdir()
        command = [sys.executable, "-c", _CHAIN, json.dumps(self.commands())]
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="session")
def chains(tmp_path_factory):
    """Run the data stages twice on the same tree, at the same time, with different hash seeds."""
    import tiny

    folder = tmp_path_factory.mktemp("chain")
    tree = tiny.source_tree(folder / "tree")
    for d, letter in enumerate("abcdef"):  # a frequent word that stands in one directory alone
        for path in (tree / f"part{d}").iterdir():
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"only{letter}zz = harq_{i}\n" for i in range(5))
    (tree / "part0" / "twin.py").write_bytes((tree / "part0" / "module0.py").read_bytes())
    (tree / "part1" / "notes.md").write_text("not read")
    (tree / "part2" / "data.py").write_bytes(b"\0\1")
    tiny.write_tokenizer(folder / "base")
    pair = [Chain(tree, folder / "base", folder / name) for name in ("one", "two")]
    for process in [chain.start(seed) for chain, seed in zip(pair, ("1", "2"), strict=True)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return pair


@pytest.fixture(scope="session")
def chain(chains):
    return chains[0]
