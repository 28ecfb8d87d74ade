"""Runs many commands of neurexp, each in a fresh fork of one process that has imported the heavy libraries already.

    commands = Commands(environment)
    process = commands.run(["model=mini", "dataset=pydoc"], folder)
    running = commands.start(["model=mini", "dataset=pydoc"], folder)    # in the background

A command starts at once in place of after five seconds, and shares nothing with another. HF_HOME and HF_ENDPOINT are
those of `Commands`, because huggingface_hub reads them when it is imported. What the interpreter does as it ends is
left out, and so are MLflow's migrations of a new store (`stores.py`) but where a file's size is limited. A command that
starts processes which live on until it ends, as Hydra's joblib launcher does, has to be a real one: `cli`.
"""

import gc
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

PRELOADED = (
    "PIL.Image",
    "alembic.command",
    "datasets",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "neurexp.experiments.ablation",
    "neurexp.experiments.categories",
    "neurexp.experiments.context",
    "neurexp.experiments.contrast.figures",
    "neurexp.experiments.grammar_tuning",
    "neurexp.experiments.intervention.figures",
    "neurexp.experiments.token_length",
    "neurexp.experiments.profile.figures",
    "neurexp.experiments.negation",
    "neurexp.experiments.proper_nouns",
    "neurexp.experiments.options.optimisations",
    "neurexp.figures.distributions",
    "neurexp.figures.in_context",
    "neurexp.figures.profiles",
    "neurexp.models.label",
    "neurexp.runs.driver",
    "neurexp.cli",
    "neurexp.runs.measure",
    "neurexp.runs.rerun",
    "neurexp.tracking.tracker",
    "pyarrow.parquet",
    "pydoc_data.topics",
    "safetensors.numpy",
    "scipy.signal",
    "sqlalchemy.dialects.sqlite",
    "transformers.models.gpt_neo.modeling_gpt_neo",
)
DEFAULTS = {
    "largest_file": resource.RLIM_INFINITY, "hurries": False, "processes": 1, "module": "neurexp", "background": False
}  # fmt: skip
# The least that is a PNG file: a dot
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da6360000000020001e5"
    "27defc0000000049454e44ae426082"
)


class Running:
    """A command in the background, as `subprocess.Popen` offers one: its own session, both streams in one.

    `returncode` is None while it runs; minus a number after a signal of that number.
    """

    def __init__(self, commands: "Commands", pid: int, output: Path) -> None:
        self.pid, self.returncode = pid, None
        self._commands, self._output = commands, output

    def poll(self) -> int | None:
        if self.returncode is None and (code := self._commands.ask({"poll": self.pid})):
            self.returncode = int(code)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def said(self) -> str:
        """What it has put out so far, line by line."""
        return self._output.read_text("utf-8")

    def communicate(self, timeout: float = 240) -> tuple[str, None]:
        """Waits for the end. Returns all that the command has put out; raises `subprocess.TimeoutExpired`."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout, self.said())
            time.sleep(0.01)
        return self.said(), None


class Commands:
    """The process that forks; it ends when it is closed, and what still runs in the background is killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._outputs = TemporaryDirectory(prefix="commands-")
        self._started: list[Running] = []

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        timeout: int = 120,
        draws: bool = False,
        largest_file: int = resource.RLIM_INFINITY,
        hurries: bool = False,
        processes: int = 1,
        module: str = "neurexp",
        **changes: str,
    ) -> subprocess.CompletedProcess[str]:
        """`python -m MODULE ARGUMENTS` in `folder`; the exit code is -14 where it took longer than `timeout`.

        Laying out and painting the figures takes most of a short run, so each is made, but painted only with `draws`;
        else its file is a dot. `largest_file`, in bytes, is the most that the system lets the command write into one.
        With `hurries` every sleep takes a tenth of its time: that between two tries of a request, for example.
        With several `processes` each is one of `torchrun`, which itself is not started. `changes` are of the
        environment, for variables that are read when a command runs.
        """
        with TemporaryDirectory() as name:
            streams = [Path(name, stream) for stream in ("stdout", "stderr")]
            request = {
                "arguments": list(arguments),
                "folder": str(folder),
                "streams": list(map(str, streams)),
                "timeout": timeout,
                "draws": draws,
                "largest_file": largest_file,
                "hurries": hurries,
                "processes": processes,
                "module": module,
                "changes": changes,
            }
            code = int(self.ask(request))
            return subprocess.CompletedProcess(arguments, code, *(stream.read_text("utf-8") for stream in streams))

    def start(
        self, arguments: Sequence[str], folder: Path, timeout: int = 300, draws: bool = False, **changes: str
    ) -> Running:
        """Starts a command as `run` does, and returns at once. SIGINT interrupts it, as on a terminal."""
        output = Path(self._outputs.name, str(len(self._started)))
        output.touch()
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "streams": [str(output)],
            "timeout": timeout,
            "draws": draws,
            "changes": changes,
            "background": True,
        }
        self._started.append(Running(self, int(self.ask(request)), output))
        return self._started[-1]

    def ask(self, request: Mapping[str, object]) -> str:
        """The server's answer, a line."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()

    def close(self) -> None:
        for running in self._started:
            running.kill()
        self._server.communicate()
        self._outputs.cleanup()


def _warm_hydra() -> None:
    """Composes a config once: Hydra's search for plugins and its parser's tables take longer than most commands."""
    from hydra import compose, initialize_config_dir

    from neurexp.config.schema import CONFIG_FOLDER, register_schema

    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        compose("config", overrides=["model=mini", "experiment.layer=[0]", "tracking.uri='a b'"])


def _warm_libraries() -> None:
    """Does once what libraries do at the first use only, a tenth of a short run."""
    from matplotlib.figure import Figure
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("gpt_neo")  # a thousand patterns
    axes = Figure(layout="constrained").subplots()
    axes.bar([1, 2], [3, 4], label="bars")
    axes.legend()


def _paint_dots() -> None:
    """From here on a figure is saved as a dot."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda self, path, **options: Path(path).write_bytes(DOT)


def _hurry() -> None:
    """From here on a sleep takes a tenth of its time."""
    import time

    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / 10)


def _become_one_of(count: int) -> None:
    """Forks into as many processes as `torchrun` would start, with its environment. Returns in each of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    local = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update(local | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count)))
    children = []
    for rank in range(count):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        child = os.fork()
        if child == 0:
            return
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os._exit(next(filter(None, codes), 0))


def serve() -> None:
    """Answers each request, a line of JSON, with the exit code of its command. A fork becomes the command."""
    for module in PRELOADED:
        __import__(module)
    import stores  # it imports mlflow, for which pytest's process has no need

    _warm_hydra()
    _warm_libraries()
    stores.copy_tables()
    stores.make_a_store()
    gc.freeze()  # or the collector walks, and so copies, all of these libraries in each fork
    for line in sys.stdin:
        request = DEFAULTS | json.loads(line)
        if "poll" in request:
            ended, status = os.waitpid(request["poll"], os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if ended else "", flush=True)
            continue
        if child := os.fork():
            print(child if request["background"] else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        signal.alarm(request["timeout"])
        for number, stream in enumerate(request["streams"], start=1):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
        if request["background"]:
            os.dup2(1, 2)
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
            sys.stdout.reconfigure(line_buffering=True)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["folder"])
        sys.path[0] = request["folder"]  # as `python -m` has it
        os.environ.update(request["changes"])
        if not request["draws"]:
            _paint_dots()
        if request["hurries"]:
            _hurry()
        if request["largest_file"] != resource.RLIM_INFINITY:
            stores.make_by_mlflow()
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        sys.argv = ["neurexp", *request["arguments"]]
        if request["processes"] > 1:
            _become_one_of(request["processes"])
        code = 1
        try:
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:  # with a code, None or a message, as the interpreter takes it
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # the interpreter's own end takes longer than most commands


if __name__ == "__main__":
    serve()
