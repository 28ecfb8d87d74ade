"""A cluster of Slurm on this machine: Debian's packages, daemons of our own in a temporary folder, all on loopback.

    with Slurm(nodes=2) as slurm:
        slurm.run("srun", "--nodes=2", "hostname", folder=…)

Each node is a `slurmd` of its own (`slurmd -N`) with its own port. The daemons end with the block, whatever happens.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import environment
from daemons import free_ports, start_daemon, wait_until

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
DAEMONS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
MailProg=/bin/true
KillWait=3
PartitionName=all Nodes=ALL Default=YES MaxTime=10
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2\n"


class Slurm:
    """The cluster; skips the test where Slurm is not installed. `nodes` are called `node0`, `node1`, …"""

    def __init__(self, nodes: int = 1) -> None:
        missing = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
        if missing:
            pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
        self._nodes = nodes

    def __enter__(self) -> "Slurm":
        with ExitStack() as stack:
            # A socket's path has 107 characters at most, which a folder of pytest's may exceed
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
            host, ports = socket.gethostname(), free_ports(1 + self._nodes)
            config = CONFIG.format(host=host, port=ports[0], user=pwd.getpwuid(os.getuid()).pw_name, folder=self.folder)
            for number, port in enumerate(ports[1:]):
                config += NODE.format(name=f"node{number}", host=host, port=port)
                (self.folder / f"node{number}").mkdir()
            (self.folder / "state").mkdir()
            (self.folder / "slurm.conf").write_text(config)
            (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
            (self.folder / "munge.key").chmod(0o600)
            files = {"key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munged", "seed-file": "seed"}
            munged = [f"--{option}={self.folder / name}" for option, name in files.items()]
            self._start(stack, "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *munged)
            wait_until((self.folder / "munge.socket").exists, self.folder)
            self._start(stack, "slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
            for number in range(self._nodes):
                self._start(stack, "slurmd", "-D", "-N", f"node{number}", "-f", f"{self.folder}/slurm.conf")
            wait_until(self._is_idle, self.folder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._ask("scancel", "--full", "--signal=KILL", "--user", str(os.getuid()))
        finally:
            self._stack.close()

    def environment(self, folder: Path, **changes: str) -> dict[str, str]:
        """Where Slurm's commands find this cluster."""
        return environment(folder / "hf", SLURM_CONF=f"{self.folder}/slurm.conf", PATH=PATH, **changes)

    def run(
        self, *command: str | Path, folder: Path, timeout: float = 200, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """A command in `folder` that may use this cluster."""
        return subprocess.run(
            command,
            cwd=folder,
            env=self.environment(folder, **changes),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def submit(self, script: Path, *arguments: str, folder: Path, options: Sequence[str] = ()) -> int:
        """Starts a batch script in `folder`, whose output goes to `slurm-JOB.out` there. Returns the job's number."""
        process = self.run("sbatch", "--parsable", *options, script, *arguments, folder=folder)
        assert process.returncode == 0, process.stderr
        return int(process.stdout)

    def wait(self, job: int, folder: Path, seconds: float = 180) -> str:
        """Waits until a job has ended. Returns its output."""
        wait_until(lambda: not self._ask("squeue", "-h", "-j", str(job)).strip(), self.folder, seconds)
        return (folder / f"slurm-{job}.out").read_text()

    def logs(self) -> Mapping[str, str]:
        """What the daemons have said, for a test that fails."""
        return {file.stem: file.read_text(errors="replace") for file in self.folder.glob("*.log")}

    def _ask(self, *command: str) -> str:
        return self.run(*command, folder=self.folder, timeout=30).stdout

    def _is_idle(self) -> bool:
        return self._ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(self._nodes)

    def _start(self, stack: ExitStack, *command: str) -> None:
        name = command[3] if command[0] == "slurmd" else command[0]
        start_daemon(stack, self.folder / f"{name}.log", list(command), self.environment(self.folder))
