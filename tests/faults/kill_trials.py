"""``kill -9`` at random moments of a training, half of them inside a save, and what comes out in the end.

Each trial trains in a fresh folder with a checkpoint after every step, is killed once or twice, started again until it
ends, and compared with a training that was never killed.
"""

import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults.trainer import (
    N_STEPS,
    Job,
    Trainer,
    all_gone,
    digests,
    leftovers,
    newest_is_whole,
    newest_step,
)
from tiny_stages import Stages

MOST_STARTS = 12
ENDS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Reference:
    """A training that was never killed."""

    digests: dict[str, str]
    trained_s: float
    """From the first sight of the checkpoint folder to the end of the command."""


@dataclass(frozen=True)
class Plan:
    """How one trial is to be killed."""

    number: int
    seed: int
    processes: int
    is_inside: bool
    """True: inside a save; False: at any moment between the first step and the end."""
    victim: str
    """``all`` processes, ``first`` worker, or ``other`` worker."""
    n_kills: int


@dataclass
class Kill:
    """What a kill met."""

    newest_step: int
    left: list[str]
    """Temporary folders that were there afterwards: the kill hit inside a save."""
    newest_is_whole: bool
    ended_s: float
    """From the kill to the end of the job."""
    left_nobody: bool


@dataclass
class Result:
    """What a trial came to."""

    plan: Plan
    kills: list[Kill] = field(default_factory=list)
    starts: int = 0
    went_on_from_newest: bool = True
    equal: dict[str, bool] = field(default_factory=dict)
    left_in_the_end: list[str] = field(default_factory=list)

    @property
    def n_inside(self) -> int:
        """Kills that hit inside a save."""
        return sum(bool(k.left) for k in self.kills)

    @property
    def is_enough(self) -> bool:
        """Whether the trial was killed as often as planned, and inside a save if planned."""
        return len(self.kills) >= self.plan.n_kills and (self.n_inside > 0 or not self.plan.is_inside)


def make_plans(n_trials: int, seed: int) -> list[Plan]:
    """Return the trials: inside a save and at any moment by turns, every fifth one with two processes."""
    rng = random.Random(seed)
    plans = []
    for number in range(n_trials):
        is_inside, processes = number % 2 == 0, 2 if number % 5 == 4 else 1
        victims = ["all"] if processes == 1 else ["all", "first"] if is_inside else ["all", "first", "other"]
        plans.append(Plan(number, seed, processes, is_inside, rng.choice(victims), rng.choice([1, 1, 2])))
    return plans


def reference(stages: Stages, folder: Path, processes: int) -> Reference:
    """Train without a kill."""
    trainer = Trainer(stages, folder)
    with trainer.start(processes) as job:
        job.until(lambda: newest_step(folder) > 0)
        began = time.monotonic()
        assert job.ended() == 0, job.said
        trained_s = time.monotonic() - began
    found = digests(folder)
    assert found["best"] != found["final"]  # else one of the two comparisons shows nothing
    return Reference(found, trained_s)


def run_trial(plan: Plan, stages: Stages, folder: Path, expected: Reference) -> Result:
    """Start, kill, start again to the end, compare."""
    rng = random.Random(f"{plan.seed}/{plan.number}")
    result = Result(plan)
    trainer = Trainer(stages, folder)
    while result.starts < MOST_STARTS:
        before, old = newest_step(folder), set(leftovers(folder / "checkpoint"))
        with trainer.start(plan.processes) as job:
            result.starts += 1
            if not result.is_enough and _reached(job, plan, expected, rng, old):
                result.kills.append(_kill(job, plan, old))
                code: int | None = None
            else:
                code = job.ended()
        _note_start(result, job, before)
        if code == 0 and result.is_enough:
            return _compared(result, folder, expected)
        assert code in (None, 0), job.said
        if code == 0:  # It ended before the kill: the trial begins anew, and its other kills still count.
            shutil.rmtree(folder)
            trainer = Trainer(stages, folder)
    raise AssertionError(f"trial {plan.number} met no save in {MOST_STARTS} starts")


def _reached(job: Job, plan: Plan, expected: Reference, rng: random.Random, old: set[str]) -> bool:
    """Wait for the moment of the kill; False: the job ended before."""
    first = newest_step(job.folder) + 1
    if plan.is_inside:
        target = rng.randint(first, max(first, (first + N_STEPS) // 2))
        if not job.until(lambda: _saved_step(job.folder, old) >= target, every_s=0.0001):
            return False
        time.sleep(rng.uniform(0, 0.003))
        return True
    if not job.until(_appeared(job.folder, first, old)):
        return False
    end = time.monotonic() + rng.uniform(0, 0.9) * expected.trained_s * (1 - first / N_STEPS)
    job.until(lambda: time.monotonic() >= end)
    return job.process.poll() is None


def _appeared(folder: Path, step: int, old: set[str]) -> Callable[[], bool]:
    return lambda: newest_step(folder) >= step or _saved_step(folder, old) >= step


def _saved_step(folder: Path, old: set[str]) -> int:
    """Return the step that is being saved at this moment; 0 if none is. What an older kill left is no save."""
    for store in (folder / "checkpoint").glob("*/"):
        for path in store.iterdir():
            if path.name.startswith(".step-") and ".tmp-" in path.name and path.name not in old:
                return int(path.name[6:14])
    return 0


def _kill(job: Job, plan: Plan, old: set[str]) -> Kill:
    members = {"all": job.members, "first": lambda: job.ranks()[:1], "other": lambda: job.ranks()[1:]}[plan.victim]()
    began = time.monotonic()
    for member in members:
        member.kill()
    job.ended(ENDS_WITHIN_S)
    left_nobody = all_gone(job)
    ended_s = time.monotonic() - began
    left = [name for name in leftovers(job.folder / "checkpoint") if name not in old]
    return Kill(newest_step(job.folder), left, newest_is_whole(job.folder), ended_s, left_nobody)


def _note_start(result: Result, job: Job, newest_before: int) -> None:
    """A start with a checkpoint must go on from the newest one, and find none damaged."""
    went_on = f"going on from step {newest_before} of" in job.said
    result.went_on_from_newest &= (went_on or not newest_before) and "damaged" not in job.said


def _compared(result: Result, folder: Path, expected: Reference) -> Result:
    found = digests(folder)
    result.equal = {name: found[name] == digest for name, digest in expected.digests.items()}
    result.left_in_the_end = leftovers(folder)
    return result


def run_trials(stages: Stages, folder: Path, *, n_trials: int, seed: int, jobs: int = 1) -> list[Result]:
    """Run all trials, ``jobs`` of them side by side."""
    plans = make_plans(n_trials, seed)
    kinds = sorted({p.processes for p in plans})

    def never_killed(processes: int) -> Reference:
        return reference(stages, folder / f"never-{processes}", processes)

    def one(plan: Plan) -> Result:
        own = folder / f"trial-{plan.number}"
        result = run_trial(plan, stages, own, expected[plan.processes])
        if all(result.equal.values()):
            shutil.rmtree(own)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        expected = dict(zip(kinds, pool.map(never_killed, kinds), strict=True))
        return list(pool.map(one, plans))


def as_rows(results: list[Result]) -> list[dict[str, Any]]:
    """Return one row per kind of trial, and one for all together."""
    kinds: dict[str, list[Result]] = {}
    for r in results:
        moment = "inside a save" if r.plan.is_inside else "any moment"
        kinds.setdefault(f"{r.plan.processes} process(es), {moment}", []).append(r)
    return [_row(name, kinds[name]) for name in sorted(kinds)] + [_row("all", results)]


def _row(name: str, results: list[Result]) -> dict[str, Any]:
    kills = [k for r in results for k in r.kills]
    equal = {f"equal {part}": sum(r.equal[part] for r in results) for part in ("final", "best", "metrics")}
    return {
        "kind": name,
        "trials": len(results),
        "kills": len(kills),
        "inside a save": sum(r.n_inside for r in results),
        "trials hit inside": sum(r.n_inside > 0 for r in results),
        "starts": sum(r.starts for r in results),
        "newest whole": sum(k.newest_is_whole for k in kills),
        "went on from newest": sum(r.went_on_from_newest for r in results),
        **equal,
        "left temporary files": sum(bool(r.left_in_the_end) for r in results),
        "slowest end s": round(max(k.ended_s for k in kills), 2),
    }


def as_markdown(table: list[dict[str, Any]]) -> str:
    """Return a table."""
    lines = [[*table[0]], ["---"] * len(table[0]), *([str(v) for v in row.values()] for row in table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Return all that was seen, trial by trial."""
    return [asdict(r) for r in results]
