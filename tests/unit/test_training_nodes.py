import json
import os
import runpy
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import types

import psutil
import pytest

from commbert.errors import EXIT_PEER_LOST, EXIT_STOPPED, EXIT_UNEXPECTED, SettingsError, TrainingError
from commbert.training import agents, nodes


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Return a function that lets squeue say something; it leaves its arguments beside itself."""

    def says(text, code=0):
        path = tmp_path / "squeue"
        path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "{text}"\nexit {code}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("SLURM_JOB_ID", "42")
        return tmp_path / "asked"

    return says


def test_slurm_itself_says_what_it_has_given(squeue):
    asked = squeue("42 2 9")
    assert nodes.allocation(2) == nodes.Allocation("42", 2, 4)
    assert "--job=42" in asked.read_text()


def test_the_first_job_of_an_array_gets_the_answer_for_all_of_them_and_finds_its_own(squeue):
    squeue("43 3 6\n42 2 4\n44 1 1")
    assert nodes.allocation(2) == nodes.Allocation("42", 2, 2)


def test_an_answer_about_other_jobs_is_none(squeue):
    squeue("43 2 4")
    with pytest.raises(TrainingError, match="expected nodes and CPUs of this job"):
        nodes.allocation(2)


def test_another_number_of_nodes_is_refused(squeue):
    squeue("42 1 4")
    with pytest.raises(SettingsError, match=r"runtime\.nodes: expected 2 nodes in Slurm job 42, found 1"):
        nodes.allocation(2)


def test_a_slurm_that_does_not_answer_is_quoted(squeue):
    squeue("slurm_load_jobs error", code=1)
    with pytest.raises(TrainingError, match="expected nodes and CPUs of this job"):
        nodes.allocation(2)


def test_several_machines_without_slurm_are_refused(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(SettingsError, match="found none"):
        nodes.allocation(2)


def _report(code, rank=None, host="n1", said=""):
    return {"code": code, "rank": rank, "host": host, "said": said}


KILLED = -signal.SIGKILL


@pytest.mark.parametrize(
    ("reports", "code", "reason", "is_death"),
    [
        ([_report(0), _report(0)], 0, "", False),
        ([_report(75), _report(75)], EXIT_STOPPED, "", False),
        ([_report(EXIT_PEER_LOST, 0), _report(KILLED, 1, "n2")], 1, "rank 1 on n2 was killed by SIGKILL", True),
        ([_report(-15, 0), _report(KILLED, 1, "n2")], 1, "rank 1 on n2 was killed by SIGKILL", True),
        ([_report(-15, 0), None], 1, "the agent of node 1 of 2 was lost", True),
        ([None, None], 1, "the agent of node 0 of 2 was lost", True),
        ([_report(0), None], 1, "the agent of node 1 of 2 was lost", True),
        ([_report(75), None], 1, "the agent of node 1 of 2 was lost", True),
        ([_report(EXIT_PEER_LOST, 1), _report(EXIT_PEER_LOST, 0, "n2")], 1, "rank 0 on n2 lost the connection", True),
        ([_report(1, 1), _report(EXIT_PEER_LOST, 0)], 1, "rank 1 on n1 failed with exit code 1", False),
        ([_report(1, 1), None], 1, "rank 1 on n1 failed with exit code 1", False),
        ([_report(EXIT_UNEXPECTED, None), _report(0)], 1, "the agent on n1 failed with exit code 70", True),
    ],
)
def test_the_verdict_names_the_cause_not_its_consequences(reports, code, reason, is_death):
    verdict = nodes._verdict(137, reports)
    assert (verdict.code, verdict.is_death) == (code, is_death)
    assert reason in verdict.reason
    assert bool(reason) == bool(verdict.reason)


@pytest.mark.parametrize("first", [EXIT_PEER_LOST, 1])
def test_what_another_than_the_first_rank_says_is_shown_unless_the_first_says_it_too(first):
    reports = [_report(first, 0, said="error: mine"), _report(1, 1, "n2", "error: its own\n")]
    assert nodes._verdict(1, reports).said == ("" if first == 1 else "error: its own\n")


def _failures(**codes):
    made = (types.SimpleNamespace(exitcode=code, timestamp=int(at)) for at, code in codes.values())
    return dict(zip(map(int, (name[1:] for name in codes)), made, strict=True))


@pytest.mark.parametrize(
    ("failures", "rank"),
    [
        (_failures(r0=(5, 76), r1=(9, -9)), 1),
        (_failures(r0=(5, -15), r1=(9, 1)), 1),
        (_failures(r0=(5, 76), r1=(3, 76)), 1),
        (_failures(r2=(5, -9), r3=(3, 1)), 3),
    ],
)
def test_the_cause_among_the_ranks_of_a_machine_is_the_first_that_failed_by_itself(failures, rank):
    assert agents._cause(failures)[0] == rank


def test_the_address_is_that_of_the_route_to_the_head_and_has_an_interface():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = agents._address_towards("127.0.0.1", server.getsockname()[1])
    assert address == "127.0.0.1"
    assert agents._interface_of(address) in ("lo", "lo0")


def test_a_head_that_is_not_there_is_an_error_that_says_what_to_set():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(TrainingError, match=r"'127\.0\.0\.1', port \d+, found: .*refused.* Set MASTER_ADDR"):
            agents._address_towards("127.0.0.1", unheard.getsockname()[1])


def test_an_interface_of_another_machine_is_refused():
    mine = next(iter(psutil.net_if_addrs()))
    agents._check_interfaces(f"{mine},{mine}")
    with pytest.raises(SettingsError, match=r"GLOO_SOCKET_IFNAME: expected .*, found 'ib7'\. Unset it"):
        agents._check_interfaces(f"{mine},ib7")


def test_an_address_without_an_interface_is_an_error():
    with pytest.raises(TrainingError, match="Set MASTER_ADDR"):
        agents._interface_of("192.0.2.1")


def test_a_stopped_rank_ends_well_for_torchrun_and_leaves_word(monkeypatch, tmp_path):
    monkeypatch.delenv(agents.RANK_FOLDER, raising=False)
    assert agents.end_of_stopped() == EXIT_STOPPED
    monkeypatch.setenv(agents.RANK_FOLDER, str(tmp_path))
    assert agents.end_of_stopped() == 0
    assert [p.name for p in tmp_path.iterdir()] == [agents._STOPPED]


def test_the_step_gets_none_of_the_shape_of_the_job(monkeypatch, squeue, tmp_path):
    squeue("42 2 4")
    fake = tmp_path / "srun"
    fake.write_text(f'#!/bin/sh\nenv > {tmp_path}/env\necho "$@" > {tmp_path}/arguments\nexit 9\n')
    fake.chmod(0o755)
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "500")
    monkeypatch.setenv("SLURM_NTASKS", "7")
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_CPU_BIND_TYPE", "mask_cpu:0x1")
    monkeypatch.setenv(nodes.STARTED_BY, "1")
    assert nodes.run_on_nodes(["train", "--x"], n_nodes=2, threads=64, restarts=1) == 1
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert not [name for name in env if name.startswith(("SLURM_MEM_PER", "SLURM_NTASKS", "SLURM_GPUS", "SLURM_CPU"))]
    assert nodes.STARTED_BY not in env
    assert env["SLURM_JOB_ID"] == "42"
    assert int(env[agents.HEAD_PORT]) > 0
    assert env[nodes.ATTEMPT] == "1"
    arguments = (tmp_path / "arguments").read_text().split()
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=2", "--kill-on-bad-exit=1", "--export=ALL", "--wait=0"} <= set(
        arguments
    )
    assert arguments[-2:] == ["train", "--x"]


def test_reports_travel_through_the_store():
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    agent = TCPStore("localhost", store.port, is_master=False, wait_for_workers=False)
    agent.set("report/1", json.dumps(_report(75)))
    assert nodes._report(store, 0) is None
    assert nodes._report(store, 1) == _report(75)


SRUN = """#!{python}
import os, signal, sys, time
from torch.distributed import TCPStore
time.sleep(1.0)
store = TCPStore("127.0.0.1", int(os.environ["COMMBERT_HEAD_PORT"]), is_master=False, wait_for_workers=False)
for node in range({listening}):
    store.set(f"agent/{{node}}", "")
    store.set(f"report/{{node}}", '{{"code": 75, "rank": null, "host": "n", "said": ""}}')
os.kill(os.getppid(), signal.SIGTERM)
with open("{told}", "w") as file:
    file.write(signal.Signals(signal.sigwait([signal.SIGTERM, signal.SIGUSR1])).name)
sys.exit(9)
"""


@pytest.mark.parametrize(("listening", "told"), [(2, "SIGUSR1"), (1, "SIGTERM")])
def test_a_wish_to_stop_goes_to_the_ranks_or_ends_agents_that_cannot_hear_it_yet(tmp_path, squeue, listening, told):
    squeue("42 2 4")
    fake = tmp_path / "srun"
    fake.write_text(SRUN.format(python=sys.executable, listening=listening, told=tmp_path / "told"))
    fake.chmod(0o755)
    assert nodes.run_on_nodes(["train"], n_nodes=2, threads=1, restarts=3) == EXIT_STOPPED
    assert not {*nodes.SIGNALS} & signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert (tmp_path / "told").read_text() == told


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (EXIT_STOPPED, 0), (KILLED, 1), (1, 1), (EXIT_PEER_LOST, 76)])
def test_an_agent_tells_the_head_and_ends_ill_only_after_a_failure(monkeypatch, code, ends):
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    told = {agents.HEAD_PORT: str(store.port), "MASTER_ADDR": "127.0.0.1", "SLURM_NODEID": "1", "SLURMD_NODENAME": "n2"}
    monkeypatch.setattr(os, "environ", {**os.environ, **told})
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    monkeypatch.setattr(agents, "_hand_on", lambda: None)
    listened = []

    def elastic(*_, **__):
        assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
        listened.append(store.check([agents.listens(1)]))
        return {"code": code, "rank": None, "said": ""}

    monkeypatch.setattr(agents, "_elastic", elastic)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        assert agents.run_agent(["train"], n_processes=1, threads=1) == ends
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert nodes._report(store, 1) == _report(code, host="n2")
    assert listened == [True]
    assert not store.check([agents.listens(0)])


def test_an_agent_holds_signals_back_from_its_first_moment(monkeypatch):
    monkeypatch.setenv(agents.HEAD_PORT, "1")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        runpy.run_module("commbert", run_name="imported")
        assert set(nodes.SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    monkeypatch.delenv(agents.HEAD_PORT)
    runpy.run_module("commbert", run_name="imported")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_rank_that_ends_before_it_is_told_to_stop_does_not_keep_the_others_from_it(monkeypatch):
    got = []

    class Child:
        def __init__(self, pid):
            self.pid = pid

        def send_signal(self, number):
            if self.pid == 1:
                raise psutil.NoSuchProcess(1)
            got.append((self.pid, number))

    def looked(_):
        raise InterruptedError

    monkeypatch.setattr(agents.psutil.Process, "children", lambda _: [Child(1), Child(2)])
    monkeypatch.setattr(agents.signal, "sigwait", lambda _: signal.SIGTERM)
    monkeypatch.setattr(agents.time, "sleep", looked)
    with pytest.raises(InterruptedError):
        agents._hand_on()
    assert got == [(2, signal.SIGTERM)]


DEAF = """#!{python}
import os, signal, time
from torch.distributed import TCPStore
signal.signal(signal.SIGTERM, lambda *_: open("{told}", "w").close())
store = TCPStore("127.0.0.1", int(os.environ["COMMBERT_HEAD_PORT"]), is_master=False, wait_for_workers=False)
for node in range({n_told}):
    store.set(f"report/{{node}}", '{{"code": {code}, "rank": 0, "host": "n", "said": ""}}')
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize(("n_told", "code", "ends"), [(2, 0, 0), (1, EXIT_PEER_LOST, 1)])
def test_an_srun_that_does_not_end_when_nobody_goes_on_is_ended(tmp_path, squeue, monkeypatch, n_told, code, ends):
    squeue("42 2 4")
    monkeypatch.setattr(nodes, "_LEAVING_S", 1.0)
    fake = tmp_path / "srun"
    fake.write_text(DEAF.format(python=sys.executable, told=tmp_path / "told", n_told=n_told, code=code))
    fake.chmod(0o755)
    assert nodes.run_on_nodes(["train"], n_nodes=2, threads=1, restarts=0) == ends


RANK = """#!/bin/sh
echo start >> {folder}/starts.$RANK
case "$RANK.{how}" in
1.fails) echo "error: its own" > $COMMBERT_RANK_FOLDER/stderr.1; exit 3;;
0.fails) sleep 2; exit 76;;
1.stops) touch $COMMBERT_RANK_FOLDER/stopped;;
esac
"""


@pytest.mark.parametrize(
    ("how", "report"),
    [
        ("ends", {"code": 0, "rank": None, "said": ""}),
        ("stops", {"code": EXIT_STOPPED, "rank": None, "said": ""}),
        ("fails", {"code": 3, "rank": 1, "said": "error: its own\n"}),
    ],
)
def test_an_agent_starts_its_ranks_once_and_reports_their_end(tmp_path, monkeypatch, how, report):
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    python = tmp_path / "python"
    python.write_text(RANK.format(folder=tmp_path, how=how))
    python.chmod(0o755)
    ranks = tmp_path / "ranks"
    ranks.mkdir()
    for name, value in (("SLURM_JOB_ID", 42), (nodes.ATTEMPT, 0), (agents.N_NODES, 1), (agents.RANK_FOLDER, ranks)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # nothing of torchrun stays there
    monkeypatch.setattr(nodes.sys, "executable", str(python))
    endpoint = f"127.0.0.1:{store.port}"
    assert agents._elastic(["train"], 2, endpoint=endpoint, address="127.0.0.1", folder=ranks) == report
    assert [(tmp_path / f"starts.{rank}").read_text() for rank in (0, 1)] == ["start\n"] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_speaks_and_what_the_others_say_is_kept(tmp_path, rank):
    code = "import sys; from commbert.training import agents; agents.speak_for_rank(); print('said', file=sys.stderr)"
    env = {**os.environ, agents.RANK_FOLDER: str(tmp_path), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    kept = tmp_path / "stderr.1"
    assert (done.stderr, kept.exists()) == (("said\n", False) if rank == 0 else ("", True))
    assert rank == 0 or kept.read_text() == "said\n"
