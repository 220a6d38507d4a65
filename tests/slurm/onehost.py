"""A Slurm cluster on this one machine, on loopback only: a controller and some nodes, for tests.

Needs root and the packages that `.ci/run` installs (Debian, Ubuntu). Nothing outside the folder it
is given is written, and no daemon of the machine is used: munge has a key and a socket there. To
try things by hand:

    python tests/slurm/onehost.py /tmp/cluster      # Ctrl-C ends it
    SLURM_CONF=/tmp/cluster/slurm.conf sinfo
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NODES = ("n1", "n2", "n3")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")

# MaxArraySize: so small that a few tasks need several arrays. Jobs of `urgent` preempt those of
# `main`, which are requeued. jobacct_gather: kills a job that is over its memory without cgroups,
# which a container may lack. config_overrides: nodes as they are said to be, on any machine.
CONFIGURATION = """\
ClusterName=onehost
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=20
KillWait=3
MinJobAge=300
MaxArraySize=4
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
DefMemPerNode=1000
NodeName=n[1-3] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{nodes}] CPUs=2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 PriorityTier=1
PartitionName=short Nodes=ALL MaxTime=0:02:00 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=0:10:00 PriorityTier=9
"""


def why_not() -> str:
    """Why a cluster cannot be started here; nothing where it can."""
    if sys.platform != "linux":
        return "a cluster of its own is started on Linux only"
    if missing := [name for name in DAEMONS if not shutil.which(name)]:
        return f"Slurm is not installed (no {', '.join(missing)}; .ci/run installs it)"
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    return ""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Start the cluster; gives its slurm.conf. All its daemons end with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (folder / part).mkdir(exist_ok=True)
    ports = _free_ports(1 + len(NODES))
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            controller=ports[0],
            nodes=",".join(map(str, ports[1:])),
        )
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    try:
        _start_munge(folder / "munge")
        subprocess.run(["slurmctld", "-i"], env=environment, check=True)
        for node in NODES:
            start_node(configuration, node)
        _wait_until_idle(environment)
        yield configuration
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
        _end(folder)
        for pid in _steps(configuration):  # of jobs that a controller has forgotten
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def start_node(configuration: Path, node: str) -> None:
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    subprocess.run(["slurmd", "-N", node], env=environment, check=True)


def bring_back(configuration: Path, node: str) -> None:
    """A node that failed is there again."""
    start_node(configuration, node)
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    # refused where Slurm has seen by itself that the node is back
    resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
    subprocess.run(resume, env=environment, capture_output=True)
    _wait_until_idle(environment)


def kill_node(configuration: Path, node: str) -> None:
    """A node's failure: its daemon, what runs its jobs, and all in those jobs die at once."""
    folder = configuration.parent
    os.kill(int((folder / f"{node}.pid").read_text()), signal.SIGKILL)
    settings = (f"SLURMD_NODENAME={node}", f"SLURM_CONF={configuration}")
    in_jobs = [pid for pid in _pids() if all(_says(pid, setting) for setting in settings)]
    for pid in [*_steps(configuration, folder / f"{node}.log"), *in_jobs]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _steps(configuration: Path, log: Path | None = None) -> list[int]:
    """The processes by which nodes of this cluster run jobs; of the node that has this log."""
    steps = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            if name == "slurmstepd" and _says(pid, f"SLURM_CONF={configuration}"):
                steps += [pid] * (log is None or str(log) in files)
    return steps


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _says(pid: int, setting: str) -> bool:
    """Whether a process was started with this in its environment."""
    try:
        return setting.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _free_ports(many: int) -> list[int]:
    with contextlib.ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(many)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start_munge(folder: Path) -> None:
    folder.chmod(0o755)
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    subprocess.run(
        [
            *("munged", "--force", f"--key-file={key}", f"--socket={folder}/socket"),
            *(f"--pid-file={folder}/pid", f"--log-file={folder}/log", f"--seed-file={folder}/seed"),
        ],
        check=True,
    )


def _wait_until_idle(environment: dict[str, str], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
    while True:
        listing = subprocess.run(command, env=environment, capture_output=True, text=True)
        if listing.stdout.split() == ["idle"] * len(NODES):
            return
        assert time.monotonic() < until, (
            f"the nodes are not idle: {listing.stdout} {listing.stderr}"
        )
        time.sleep(0.2)


def _end(folder: Path) -> None:
    """End the daemons by their numbers, nodes first."""
    files = [folder / f"{node}.pid" for node in NODES]
    for path in [*files, folder / "slurmctld.pid", folder / "munge" / "pid"]:
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text())
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + 5
            while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
                time.sleep(0.05)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with cluster(Path(sys.argv[1]).resolve()) as started:
        print(f"export SLURM_CONF={started}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
