"""Runs many commands of neurexp, each in a fresh fork of one process that has imported the heavy libraries already.

    commands = Commands(environment)
    process = commands.run(["model=mini", "dataset=pydoc"], folder)

A command starts at once in place of after five seconds, and shares nothing with another. HF_HOME and HF_ENDPOINT are
those of `Commands`, because huggingface_hub reads them when it is imported. What the interpreter does as it ends is
left out, and so are MLflow's migrations of a new store (`stores.py`) but where a file's size is limited.
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
    "neurexp.figures.in_context",
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
# The least that is a PNG file: a dot
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da6360000000020001e5"
    "27defc0000000049454e44ae426082"
)


class Commands:
    """The process that forks; it ends when it is closed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

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
            assert self._server.stdin and self._server.stdout
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, *(stream.read_text("utf-8") for stream in streams))

    def close(self) -> None:
        self._server.communicate()


def _warm_hydra() -> None:
    """Composes a config once: Hydra's search for plugins and its parser's tables take longer than most commands."""
    from hydra import compose, initialize_config_dir

    from neurexp.config.schema import CONFIG_FOLDER, register_schema

    register_schema()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        compose("config", overrides=["model=mini", "experiment.layer=[0]", "tracking.uri='a b'"])


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
    stores.copy_tables()
    stores.make_a_store()
    gc.freeze()  # or the collector walks, and so copies, all of these libraries in each fork
    for line in sys.stdin:
        request = json.loads(line)
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        signal.alarm(request["timeout"])
        for number, stream in enumerate(request["streams"], start=1):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
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
