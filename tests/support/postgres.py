"""MLflow's server over PostgreSQL, with proxied artifacts: Debian's packages, a temporary cluster, all on this machine.

    with MlflowServer() as server:
        server.uri               # http://127.0.0.1:PORT
        server.database          # postgresql://…, the store itself, with its password

PostgreSQL listens on a Unix socket only, and never runs as root. Both end with the block, whatever happens.
"""

import os
import pwd
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import environment
from daemons import free_ports, start_daemon, wait_until

PASSWORD = "open-sesame"


class MlflowServer:
    """The server; skips the test where PostgreSQL or its driver is not installed."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg")
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not folders:
            pytest.skip("PostgreSQL is not installed")
        self._programs = folders[-1]

    def __enter__(self) -> "MlflowServer":
        with ExitStack() as stack:
            # A socket's path has 107 characters at most, which a folder of pytest's may exceed
            self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True)))
            data, secret = self.folder / "data", self.folder / "secret"
            data.mkdir(mode=0o700)
            secret.write_text(PASSWORD)
            self._owner: list[str] = []
            if os.getuid() == 0:  # initdb refuses root
                self._owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
                user = pwd.getpwnam("postgres")
                for path in (self.folder, data, secret):
                    os.chown(path, user.pw_uid, user.pw_gid)
            access = ("--username=me", "--auth=scram-sha-256", f"--pwfile={secret}")
            self._call("initdb", "--pgdata=data", "--no-sync", *access)
            secret.unlink()
            command = ("postgres", "-D", "data", "-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off")
            tied = [*self._owner, "--pdeathsig=INT"] if self._owner else []  # a change of the user unties
            command = [*tied, str(self._programs / command[0]), *command[1:]]
            start_daemon(stack, self.folder / "postgres.log", command, environment(self.folder), signal.SIGINT)
            login = {"PGHOST": str(self.folder), "PGUSER": "me", "PGPASSWORD": PASSWORD}
            wait_until(lambda: self._try("createdb", "mlflow", **login), self.folder)
            self.database = f"postgresql://me:{PASSWORD}@/mlflow?host={self.folder}"
            (port,) = free_ports(1)
            self.uri = f"http://127.0.0.1:{port}"
            where = ("--host=127.0.0.1", f"--port={port}", "--workers=1", "--serve-artifacts")
            artifacts = f"--artifacts-destination={self.folder / 'artifacts'}"
            settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            command = [sys.executable, "-m", "mlflow", "server", *where, artifacts]
            settings = environment(self.folder, MLFLOW_BACKEND_STORE_URI=self.database, **settings)
            start_daemon(stack, self.folder / "mlflow.log", command, settings)
            wait_until(self._answers, self.folder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def requests(self) -> list[str]:
        """The requests that the server has answered, METHOD PATH, in order."""
        lines = (self.folder / "mlflow.log").read_text(errors="replace").splitlines()
        return [line.split('"')[1].rpartition(" ")[0] for line in lines if '"' in line and "/health" not in line]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _call(self, program: str, *arguments: str, **changes: str) -> None:
        command = [*self._owner, str(self._programs / program), *arguments]
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=environment(self.folder, **changes),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr

    def _try(self, program: str, *arguments: str, **changes: str) -> bool:
        try:
            self._call(program, *arguments, **changes)
        except AssertionError:
            return False
        return True
