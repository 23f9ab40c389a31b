"""The data stages on a small tree: what they wrote as rows, the files that all shards make together, the command."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tiny
import tiny_stages
from commbert import tables
from commbert.settings.corpus import CorpusSettings, PathSource, SplitSettings
from commbert.settings.pairs import PairsSettings
from commbert.settings.tokenizer import TokenizerSettings
from commbert.settings.windows import WindowsSettings
from commbert.settings.words import WordsSettings
from commbert.stages import corpus, ingest

SECTIONS: dict[str, Any] = {
    "words": WordsSettings(english_words=500),
    "tokenizer": TokenizerSettings(min_count=3),
    "windows": WindowsSettings(max_length=48),
    "pairs": PairsSettings(subsample=0.05, heldout_positives=100),
}
GATHERED = (
    "corpus/files.parquet",
    "corpus/ingest.json",
    "corpus/words.parquet",
    "corpus/words.json",
    "corpus/english.json",
    "tokenizer/tokenizer/manifest.json",
    "tokenizer/tokenizer/new_words.json",
    "tokenizer/tokenizer/tokenizer.json",
    "tokenizer/tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer/vocab.txt",
    "tokenizer/words.parquet",
    "tokenizer/receipts.json",
    "windows/summary.json",
    "pairs/train.parquet",
    "pairs/validation.parquet",
    "pairs/test.parquet",
    "pairs/known.parquet",
    "pairs/heldout_lines.parquet",
    "pairs/summary.json",
    "corpus/functions.parquet",
    "corpus/functions.json",
    "corpus/acronyms.parquet",
    "corpus/acronyms.json",
    "texts/texts.parquet",
    "texts/pairs.parquet",
    "texts/summary.json",
)
"""What the stages that gather all shards write; where windows lie and how files were dealt is told elsewhere."""
TABLES = {
    "corpus/files": tables.FILES,
    "corpus/words": tables.CORPUS_WORDS,
    "tokenizer/words": tables.WORDS,
    "pairs/train": tables.PAIRS,
    "pairs/validation": tables.PAIRS,
    "pairs/test": tables.PAIRS,
    "pairs/known": tables.KNOWN_PAIRS,
    "pairs/heldout_lines": tables.LINE_WORDS,
    "corpus/functions": tables.FUNCTIONS,
    "corpus/acronyms": tables.ACRONYMS,
    "texts/texts": tables.TEXTS,
    "texts/pairs": tables.TEXT_PAIRS,
}
_COMMANDS = """
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


def write_tree(folder: Path) -> Path:
    """Write a tree of six directories with a word of each alone, a copy, a file that is not read, and a binary one."""
    tree = tiny.source_tree(folder)
    for d, letter in enumerate("abcdef"):
        for path in (tree / f"part{d}").iterdir():
            with path.open("a", encoding="utf-8") as file:
                file.writelines(f"only{letter}zz = harq_{i}\n" for i in range(5))
    (tree / "part0" / "twin.py").write_bytes((tree / "part0" / "module0.py").read_bytes())
    (tree / "part1" / "notes.md").write_text("not read")
    (tree / "part2" / "data.py").write_bytes(b"\0\1")
    return tree


def settings_of(
    *sources: Any, cleaning: Mapping[str, Any] | None = None, split: SplitSettings | None = None, **sections: Any
) -> tiny_stages.DataSettings:
    """Return the sections of the data stages."""
    section = CorpusSettings(
        sources=sources, split=split or SplitSettings(validation=0.17, test=0.17), **(cleaning or {})
    )
    return tiny_stages.DataSettings(section, **{**SECTIONS, **sections})


def path_source(path: Path, **changes: Any) -> PathSource:
    return PathSource(**{"kind": "path", "name": "tree", "path": str(path), "include": ("*.py",), **changes})


def gathered(at: Path) -> dict[str, bytes]:
    """Return the bytes of what all shards make together."""
    return {name: (at / name).read_bytes() for name in GATHERED}


def differing(one: Mapping[str, bytes], two: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


class Chain:
    """What the data stages left below a folder, as rows."""

    def __init__(self, data: tiny_stages.Data) -> None:
        self.data, self.at = data, data.at

    def rows(self, name: str) -> list[dict[str, Any]]:
        return tables.read(self.at / f"{name}.parquet", TABLES[name]).to_pylist()

    def files(self) -> dict[str, dict[str, Any]]:
        """Return the files by source and path."""
        return {f"{row['source']}:{row['path']}": row for row in self.rows("corpus/files")}

    def windows(self, split: str) -> list[dict[str, Any]]:
        parts = tables.read_parts(self.data.window_lists[split], tables.WINDOWS)
        return [row for part in parts for row in tables.read(part, tables.WINDOWS).to_pylist()]

    def all_lines(self) -> list[dict[str, Any]]:
        """Return the lines that were read, each with its file's number in the corpus."""
        out: list[dict[str, Any]] = []
        first = 0
        for shard in self.summary("corpus/shards"):
            rows = tables.read(self.data.lines(shard["shard"]), tables.LINES).to_pylist()
            out += [{"file_id": first + row.pop("file_no"), **row} for row in rows]
            first += shard["files"]
        return out

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of kept files."""
        kept = {row["file_id"] for row in self.rows("corpus/files") if row["kept"]}
        return [row for row in self.all_lines() if row["file_id"] in kept]

    def split_of(self) -> dict[int, str]:
        return {row["file_id"]: row["split"] for row in self.rows("corpus/files")}

    def word(self) -> list[str]:
        return [row["word"] for row in self.rows("tokenizer/words")]

    def summary(self, name: str) -> Any:
        return json.loads((self.at / f"{name}.json").read_text(encoding="utf-8"))


def read_corpus(at: Path, settings: CorpusSettings, fetched: Mapping[str, Path] | None = None) -> Chain:
    """Run the stages ``ingest`` and ``corpus`` alone."""
    shards = [(s, i, name) for s in settings.sources for i, name in enumerate(s.shard_names)]
    data = tiny_stages.Data(at, tuple(name for _, _, name in shards))
    paths = []
    for source, number, name in shards:
        paths.append(corpus.ShardPaths(data.shard_files(name), at / "shards" / name / "ingest.json"))
        ingest.run(
            settings.of_shard(source),
            shard=number,
            fetched=(fetched or {}).get(source.name),
            files_out=paths[-1].files,
            lines_out=data.lines(name),
            summary_out=paths[-1].summary,
        )
    corpus.run(
        settings.gathering(),
        shards=paths,
        files_out=data.files,
        shards_out=at / "corpus" / "shards.json",
        summary_out=at / "corpus" / "ingest.json",
    )
    return Chain(data)


def commands(
    at: Path, settings: tiny_stages.DataSettings, base: Path, *, threads: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """Yield every data stage's command, as the workflow calls it, with the name of its job."""
    sources = settings.corpus.sources
    shards = {name: (s, i) for s in sources for i, name in enumerate(s.shard_names)}
    data = tiny_stages.Data(at, tuple(shards))

    def command(stage: str, section: Any, **paths: Any) -> list[str]:
        options = [] if section is None else ["--settings", section.as_json()]
        for name, value in paths.items():
            for path in value if isinstance(value, list) else [value]:
                options += [f"--{name.replace('_', '-')}", str(path)]
        return [stage, *options, "--threads", str(threads)]

    for name, (source, number) in shards.items():
        yield (
            f"ingest.{name}",
            command(
                "ingest",
                settings.corpus.of_shard(source),
                shard=number,
                files_out=data.shard_files(name),
                lines_out=data.lines(name),
                summary_out=at / "shards" / name / "ingest.json",
            ),
        )
        lexing = command("lex", settings.words.of_lines(), base=base, lines=data.lines(name), out=data.lexed(name))
        yield f"lex.{name}", lexing
    read = {"files": data.files, "shards": at / "corpus/shards.json"}
    yield (
        "corpus",
        command(
            "corpus",
            settings.corpus.gathering(),
            shard_files=[data.shard_files(n) for n in shards],
            shard_summary=[at / "shards" / n / "ingest.json" for n in shards],
            files_out=data.files,
            shards_out=read["shards"],
            summary_out=at / "corpus/ingest.json",
        ),
    )
    lexed = [data.lexed(n) for n in shards]
    words, english = at / "corpus/words.parquet", at / "corpus/english.json"
    yield (
        "words",
        command(
            "words",
            settings.words,
            **read,
            lexed=lexed,
            words_out=words,
            english_out=english,
            summary_out=at / "corpus/words.json",
        ),
    )
    grown = at / "tokenizer/tokenizer"
    yield (
        "tokenizer",
        command(
            "tokenizer",
            settings.tokenizer,
            base=base,
            **read,
            lexed=lexed,
            corpus_words=words,
            english=english,
            tokenizer_out=grown,
            words_out=at / "tokenizer/words.parquet",
            receipts_out=at / "tokenizer/receipts.json",
        ),
    )
    for name in shards:
        part = data.windows(name)
        outputs = {f"{s}_out": part.windows[s] for s in tables.SPLITS}
        outputs |= {"hashes_out": part.hashes, "summary_out": part.summary}
        yield (
            f"windows.{name}",
            command("windows", settings.windows, **read, lexed=data.lexed(name), tokenizer=grown, **outputs),
        )
        drawing = {"lexed": data.lexed(name), "words": words, "out": data.drawn(name)}
        yield f"draw.{name}", command("draw", settings.pairs, **read, **drawing)
    parts = [data.windows(n) for n in shards]
    lists = data.window_lists
    yield (
        "list-windows",
        command(
            "list-windows",
            None,
            **{s: [p.windows[s] for p in parts] for s in tables.SPLITS},
            hashes=[p.hashes for p in parts],
            shard_summary=[p.summary for p in parts],
            **{f"{s}_out": lists[s] for s in tables.SPLITS},
            summary_out=at / "windows/summary.json",
        ),
    )
    chosen = data.pairs
    yield (
        "pairs",
        command(
            "pairs",
            settings.pairs,
            files=data.files,
            drawn=[data.drawn(n) for n in shards],
            words=at / "tokenizer/words.parquet",
            **{f"{s}_out": chosen.splits[s] for s in tables.SPLITS},
            known_out=chosen.known,
            heldout_lines_out=chosen.heldout_lines,
            summary_out=chosen.summary,
        ),
    )
    lines = [data.lines(n) for n in shards]
    yield "functions", command("functions", None, **read, lines=lines, **data.functions)
    yield "acronyms", command("acronyms", None, **read, lines=lines, **data.acronyms)
    yield (
        "texts",
        command(
            "texts",
            settings.texts,
            files=data.files,
            functions=data.functions["out"],
            acronyms=data.acronyms["acronyms_out"],
            tokenizer=at / "tokenizer/tokenizer",
            **data.texts,
        ),
    )


def start(commands_: list[list[str]], **environment: str) -> subprocess.Popen[str]:
    """Start a process that runs the commands one after the other."""
    command = [sys.executable, "-W", "error", "-c", _COMMANDS, json.dumps(commands_)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
