"""The command line: Hydra around a run, and the end of mistakes, signals, sweeps and `torchrun`.

The run itself is in `runs.driver`. Imports nothing heavy: `--help`, `--cfg` and tab completion need only this module.
"""

import atexit
import gc
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neurexp.config.mistakes import explain
from neurexp.config.schema import CONFIG_FOLDER, GROUPS, folder_of, register_schema
from neurexp.console import terminal
from neurexp.console.interrupts import hearing_signals
from neurexp.engine import processes, watch
from neurexp.errors import UserError, one_line
from neurexp.io.provenance import version_of
from neurexp.report.folder import CHECKPOINTS, HYDRA, LOCK, LOG, NOTE, TRACEBACK
from neurexp.runs import sweep as sweeps
from neurexp.runs.sweep_job import Membership
from neurexp.tracking import beside

HELPERS_WAIT = 5  # seconds for process 0 to report a mistake first: torchrun ends all processes with the first
LONGEST_NAME = 200  # characters of the varied options
INTERRUPTED = 130  # the exit code
SELDOM = 200_000, 30, 30  # objects and collections between Python's collections of cycles, by generation
ONE_WISH = 0.3  # seconds: signals within it count as one, because a terminal and `torchrun` may both send one


def _help(_root_: DictConfig) -> str:
    """The groups, and the options of the composed config, for the template in config.yaml."""
    from neurexp.config.explanations import as_help

    runtime = _root_.hydra.runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    return as_help(_root_, runtime.choices, folders).replace("$", "$$")  # for Hydra's template


register_schema()
OmegaConf.register_new_resolver("neurexp_help", _help, replace=True)


class ChooseRunFolder(Callback):
    """Keeps Hydra from overwriting a finished run, and gives it the folder of a run that is resumed."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        from neurexp.runs import resume

        try:
            # A bad ${…} or a name that is too long is reported when the folder is made
            with suppress(OmegaConfBaseException, OSError):
                resume.choose_folder(config)
        except UserError as error:
            raise Refused(error) from error


class NoteSweep(Callback):
    """Notes the folder of a multirun when it starts; `main` sums it up when it has ended, also after an error."""

    folder: Path | None = None  # of this process's sweep

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            # As above; or a link that leads to itself
            with suppress(OmegaConfBaseException, OSError, RuntimeError):
                folder = folder_of(config, "hydra.sweep.dir").resolve()
                if config.run.get("resume"):
                    if not any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
                        raise UserError("run.resume=true: which sweep? give hydra.sweep.dir=FOLDER")
                elif sweeps.is_used(folder):
                    raise UserError(f"hydra.sweep.dir={folder}: is not empty; choose another folder")
                sweeps.begin(folder, config)
                type(self).folder = folder
        except UserError as error:
            raise Refused(error) from error


class Refused(BaseException):
    """Carries a UserError out of a callback, where Hydra would turn an Exception into a warning."""

    def __init__(self, error: UserError):
        super().__init__(str(error))
        self.error = error


_failures: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def _job(config: DictConfig) -> None:
    """One Hydra job. A failure is printed and remembered: other jobs of a sweep go on, and the exit code is 1."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    os.chdir(hydra_config.runtime.cwd)  # relative paths start where the user typed them, also with hydra.job.chdir=true
    sweep = Path(hydra_config.sweep.dir).resolve() if hydra_config.mode is RunMode.MULTIRUN else None
    overrides = list(map(str, OmegaConf.to_container(hydra_config.overrides.task, resolve=False) or ()))
    number = int(hydra_config.job.num) if sweep is not None else 0
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _interrupt)  # in a launcher's process as well
    terminal.prepare()
    try:
        if sweep is not None and sweeps.begin_job(sweep, number, folder, overrides, config):
            return
        from neurexp.runs.driver import run

        job = None if sweep is None else Membership(sweep, number, tuple(sweeps.varied(sweep, overrides)))
        with terminal.warnings_in_the_log():
            run(config, folder, job)
    except KeyboardInterrupt:
        _end_interrupted(folder)
        raise
    except Exception as error:
        if _heard:  # a library turned the interrupt into another error
            _end_interrupted(folder)
            raise KeyboardInterrupt from error
        if isinstance(error, processes.LostProcessError):
            _end_lost(folder, str(error))
            return
        message = mistake_of(error)
        if message is None:
            if processes.rank() > 0:
                traceback.print_exc()  # its folder is temporary
            message = keep_traceback(error, folder)
        if sweep is not None:
            sweeps.note_failure(sweep, number, message)
        if _wants_traceback():
            raise
        processes.leave(why=message)
        if processes.rank() > 0:
            time.sleep(HELPERS_WAIT)
        place = f" in process {processes.rank()}" if processes.rank() else ""
        print(f"error{place}: {message}", file=sys.stderr)
        _failures.append(message)
        _tell_how_to_go_on(folder)
        discard_if_empty(folder)


def _end_interrupted(folder: Path) -> None:
    """Says how to go on; of a process of `torchrun` that ends because another one was lost, also which."""
    if (lost := processes.lost()) is not None:
        _end_lost(folder, lost)
        return
    processes.leave(watch.INTERRUPTED)
    _tell_how_to_go_on(folder)


def _end_lost(folder: Path, lost: str) -> None:
    """Prints which process of `torchrun` was lost, and what to do, in one line."""
    from neurexp.runs import resume

    processes.leave(why=lost)
    if processes.rank() > 0:
        time.sleep(HELPERS_WAIT)
        advice, place = "", f" in process {processes.rank()}"
    else:
        place, advice = "", "; run it again"
        if can_go_on(folder):
            advice = (
                f"; add {resume.how(folder)} to go on from the last checkpoints, with this or another number of "
                "processes"
            )
    print(f"error{place}: {lost}{advice}", file=sys.stderr)
    _failures.append(lost)
    discard_if_empty(folder)


def mistake_of(error: Exception) -> str | None:
    """One line for a mistake that ended a run, or None for a bug."""
    return explain(error) if isinstance(error, UserError | OmegaConfBaseException) else None


def keep_traceback(error: Exception, folder: Path) -> str:
    """Writes the traceback of a bug into the run folder. Returns one line that says so."""
    with suppress(OSError):  # a full disk
        (folder / TRACEBACK).write_text("".join(traceback.format_exception(error)), "utf-8")
    message = f"unexpected {type(error).__name__}: {one_line(error)}"
    return f"{message} (see {folder / TRACEBACK})" if (folder / TRACEBACK).exists() else message


def can_go_on(folder: Path) -> bool:
    """Whether the folder of an ended run holds checkpoints to go on from."""
    from neurexp.runs import resume

    return any(folder.glob(CHECKPOINTS)) and not resume.is_held(folder)


def _tell_how_to_go_on(folder: Path) -> None:
    from neurexp.runs import resume

    if HydraConfig.get().mode is RunMode.RUN and can_go_on(folder):
        print(f"The pass is kept up to its last checkpoint: add {resume.how(folder)} to go on", file=sys.stderr)


def discard_if_empty(folder: Path) -> None:
    """Removes a run folder that holds only files from before the run began."""
    from neurexp.runs import resume

    before = (HYDRA, LOG, NOTE, LOCK)
    if all(entry.name in before for entry in folder.iterdir()) and not resume.is_held(folder):
        shutil.rmtree(folder)


def _wants_traceback() -> bool:
    return os.environ.get("NEUREXP_TRACEBACK") == "1"


def main() -> None:
    """The command line: `python -m neurexp` and the console script `neurexp`."""
    # Collections of cycles took a third of the time of the imports, and collected next to nothing; one more at the exit
    # would visit every object of every library
    gc.set_threshold(*SELDOM)
    atexit.register(gc.freeze)
    beside.allow()
    terminal.prepare()
    register_schema()  # a call from Python takes it out again
    sys.argv = as_hydra_takes(sys.argv)
    # Hydra raises its errors only in this mode; the user's choice is kept in another variable
    os.environ["NEUREXP_TRACEBACK"] = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's SIGTERM has the effect of Ctrl-C
    if processes.count() > 1:
        signal.signal(watch.LOST, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # unless a shell ignores it in the background
        signal.signal(signal.SIGINT, _interrupt)
    status = None
    try:
        try:
            _check_dashes(sys.argv)
            if "--version" in sys.argv:  # Hydra's has its own version only
                print(f"neurexp {version_of('neurexp') or 'of a checkout'}, Hydra {hydra.__version__}")
                return
            if "--sites" in sys.argv:
                from neurexp.runs.show_sites import show_sites

                print(show_sites([text for text in sys.argv[1:] if text != "--sites"]))
                return
            if processes.count() > 1:
                _check_processes(sys.argv)
            with _as_helper() if processes.rank() > 0 else nullcontext():
                _job()
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Refused as refusal:
            print(f"error: {refusal.error}", file=sys.stderr)
            sys.exit(1)
        except BrokenPipeError:  # the reader closed the pipe, as `| head` does
            terminal.flush()
            sys.exit(1)
        except Exception as error:
            status = "FAILED"
            message = explain(error)
            if message is None or _wants_traceback():
                raise
            print(f"error: {message}", file=sys.stderr)
            sys.exit(1)
        finally:
            if NoteSweep.folder is not None and not _end_sweep(NoteSweep.folder, status):
                _failures.append("the sweep")
    except KeyboardInterrupt:
        if processes.count() > 1 and _failures:
            _leave(1)
        print("error: interrupted", file=sys.stderr)
        _leave(INTERRUPTED)
    reason = terminal.flush()
    if reason is not None and not _failures:
        print(
            f"error: standard output took not all lines ({reason}); the run folder has what was found", file=sys.stderr
        )
    if _failures or reason is not None:
        sys.exit(1)


def _check_dashes(arguments: list[str]) -> None:
    """Raises UserError for an option with dashes before it, as other programs have them: `--model mini`."""
    for index, text in enumerate(arguments):
        name, equals, value = text.removeprefix("--").partition("=")
        group, dot, _ = name.partition(".")
        if text.startswith("--") and group in GROUPS and (dot or group != "run"):  # --run is Hydra's
            value = value if equals else " ".join(arguments[index + 1 : index + 2])
            raise UserError(f"{text}: options have no dashes; give {name}={value or 'VALUE'}")


def as_hydra_takes(overrides: list[str]) -> list[str]:
    """The overrides as Hydra takes them.

    A new name in a dictionary needs ++ before it, and formats with commas between are a list, not the jobs of a sweep.
    """
    taken = []
    for text in overrides:
        if text.startswith(("model.sites.", "model.sites={")):
            text = "++" + text
        elif re.fullmatch(r"tracking\.figures=\w+(,\w+)+", text):
            text = text.replace("=", "=[") + "]"
        taken.append(text)
    return taken


def _leave(status: int) -> NoReturn:
    """Ends the process now. The interpreter would first wait for threads, and free memory that native code uses."""
    with suppress(BaseException):
        atexit._run_exitfuncs()
    terminal.flush()
    os._exit(status)


def _check_processes(arguments: list[str]) -> None:
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(
            "torchrun with -m: torchrun splits one run over processes; for the jobs of a sweep give hydra/launcher="
        )


@contextmanager
def _as_helper() -> Iterator[None]:
    """Makes a process of `torchrun` other than the first leave no run folder, and print only errors."""
    with TemporaryDirectory() as folder:
        sys.argv += [f"hydra.run.dir={folder}", "hydra.output_subdir=null", "hydra/job_logging=disabled"]
        yield


_heard: dict[int, float] = {}  # signal → when it was first heard


def _interrupt(number: int, frame: Any) -> None:
    """Ends the run by KeyboardInterrupt. The same signal a second time ends the process at once."""
    now, is_first = time.monotonic(), not _heard
    if now - _heard.setdefault(number, now) > ONE_WISH:
        os.write(2, b"error: interrupted twice, so nothing was put in order\n")
        os._exit(INTERRUPTED)
    if is_first:
        raise KeyboardInterrupt


def _end_sweep(folder: Path, status: str | None) -> bool:
    """Sums the sweep up and ends its MLflow run. Returns whether everything succeeded."""
    if not folder.exists():
        return True
    try:
        hearing_signals(sweeps.finish, folder, status)
    except Exception as error:
        if _wants_traceback():
            traceback.print_exc()
        is_summed_up = isinstance(error, UserError)  # and MLflow did not take it
        told = str(error) if is_summed_up else f"could not be summed up ({one_line(error)})"
        print(f"error: the sweep in {folder}: {told}", file=sys.stderr)
        if not is_summed_up:
            with suppress(Exception):
                sweeps.finish(folder, "FAILED")
        return False
    return not sweeps.failures(folder)
