"""`neurexp.run(…)`: an experiment from Python. And `python -m neurexp.run`, which does the same as `python -m neurexp`.

    run = neurexp.run("token_length", model="mini", dataset="pydoc", **{"experiment.control": "random"})

This module is callable (`lazy.make_callable`). A call takes the way of the command line: Hydra composes the options,
and `runs.driver` runs them. The command line may change its process for good; after a call all is as before: Hydra's
state, loggers, warnings, the standard streams and PyTorch's threads. Imports nothing heavy.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurexp.lazy import make_callable

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from neurexp.runs.opened_run import Run

_one_at_a_time = threading.RLock()  # Hydra's state and the loggers are the whole process's


def run(
    experiment: str | type | None = None,
    *,
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
    **options: Any,
) -> "Run":
    """Runs an experiment as `python -m neurexp` does, and opens the finished run.

        neurexp.run("token_length", model="mini", dataset="pydoc", **{"dataset.tokens": 4096, "run.seed": 3})

    It prints its progress, the findings and where the run folder is. Calls in several threads run one after the other.

    Args:
        experiment: which one; the command line's default if not given. Or a class of your own, that derives from
            `neurexp.Contrast`, `Profile`, …: it needs no config file.
        overrides: more options, spelled as on the command line: `["experiment.layer=[1,2]", "run.seed=3"]`.
        config_dir: a folder with configs of your own (`--config-dir`).
        options: the choice of a group (`model="mini"`) or the value of an option (`**{"model.name": "a b"}`), as a
            Python value: None, a bool, a number, a text, a path, or a list or dictionary of these.

    Raises:
        UserError: a mistake that you can mend, in the line that the command prints.
        KeyboardInterrupt: of Ctrl-C, or the notebook's stop button; what the pass has done so far is kept.
    """
    from neurexp.config.overrides import overrides_of

    own = experiment if isinstance(experiment, type) else None
    if own is not None:
        from neurexp.config.own_experiment import name_of

        experiment = name_of(own)
    chosen = {} if experiment is None else {"experiment": experiment}
    arguments = [*overrides_of(chosen | options), *_checked(overrides)]
    with _one_at_a_time:
        folder = _run(arguments, config_dir, own)
    from neurexp.runs.opened_run import open_run

    return open_run(folder)


def _checked(overrides: Sequence[str]) -> list[str]:
    from neurexp.errors import UserError

    if isinstance(overrides, str) or not all(isinstance(one, str) for one in overrides):
        raise UserError(f'overrides={overrides!r}: give a list of texts, as ["run.seed=3"]')
    for one in overrides:
        if one in ("-m", "--multirun"):
            raise UserError(f"overrides: {one}: sweeps are for the command line; from Python, call run in a loop")
        if one.startswith("-"):
            raise UserError(f"overrides: {one}: give options only, as run.seed=3")
    return list(overrides)


def _run(arguments: list[str], config_dir: str | Path | None, own: type | None = None) -> Path:
    """Runs an experiment with these overrides, perhaps of a class `own`. Returns its folder."""
    with _hydra(config_dir, own) as hydra:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import DictConfig

        from neurexp import cli
        from neurexp.config.mistakes import explain
        from neurexp.console import terminal
        from neurexp.engine import processes
        from neurexp.errors import UserError
        from neurexp.io.provenance import arguments_of_call
        from neurexp.report.folder import LOG

        if processes.count() > 1:
            raise UserError("neurexp.run: torchrun splits a run of the command line only; give torchrun -m neurexp …")
        ended: list[Exception | None] = []
        folder = Path()

        def job(config: DictConfig) -> None:
            """Keeps an exception, about which Hydra would print lines of its own."""
            nonlocal folder
            from neurexp.runs import driver

            settings = HydraConfig.get()
            folder = Path(settings.runtime.output_dir)
            shows = bool(settings.job_logging["root"].get("handlers"))  # none with hydra/job_logging=disabled
            try:
                with terminal.own_log(folder / LOG, shows), _torch_as_before():
                    driver.run(config, folder)
                ended.append(None)
            except Exception as error:
                ended.append(error)

        token = arguments_of_call.set(([f"--config-dir={config_dir}"] if config_dir else []) + arguments)
        try:
            with terminal.lent():
                overrides = [*cli.as_hydra_takes(arguments), "hydra.mode=RUN"]
                hydra.run("config", job, overrides, with_log_configuration=False)
        except cli.Refused as refusal:
            raise refusal.error from None
        except KeyboardInterrupt:
            _tell_how_to_go_on(folder)
            raise
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            raise UserError(message) from None
        finally:
            arguments_of_call.reset(token)
    (error,) = ended
    if error is None:
        return folder
    message = cli.mistake_of(error)
    if message is None:
        cli.keep_traceback(error, folder)
    _tell_how_to_go_on(folder)
    cli.discard_if_empty(folder)
    if message is None or isinstance(error, UserError):
        raise error
    raise UserError(message) from error


def _tell_how_to_go_on(folder: Path) -> None:
    from neurexp.cli import can_go_on

    if folder.is_absolute() and can_go_on(folder):  # else it ended before there was a folder
        how = f"**{{'run.resume': True, 'hydra.run.dir': {str(folder)!r}}}"
        print(f"The pass is kept up to its last checkpoint: add {how} to go on", file=sys.stderr)


@contextmanager
def _hydra(config_dir: str | Path | None, own: type | None) -> "Iterator[Hydra]":
    """Hydra with our configs, and that of a class `own`. All that Hydra keeps for the process is as before afterwards.

    Raises:
        UserError: there is no such folder, or the class is no experiment.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase, setbase
    from omegaconf.basecontainer import BaseContainer

    from neurexp.config.schema import CONFIG_FOLDER, register_schema
    from neurexp.errors import UserError

    Plugins.instance()  # looks for plugins once in a process; they put their configs into the store
    whole, base, runtime, store = (
        GlobalHydra.instance(),
        VersionBase.instance(),
        JobRuntime.instance(),
        ConfigStore.instance(),
    )
    known = whole.hydra, base.version_base, runtime.conf, dict(vars(store)), _two_levels(store.repo)
    resolvers = dict(BaseContainer._resolvers)
    if config_dir is not None and not Path(config_dir).expanduser().is_dir():
        raise UserError(f"config_dir={config_dir}: no such folder; give one with conf files of your own")
    try:
        whole.hydra, runtime.conf = None, runtime.conf.copy()
        setbase("1.3")
        register_schema()
        if own is not None:
            from neurexp.config.own_experiment import register

            register(own)
        path = create_config_search_path(str(CONFIG_FOLDER))
        if config_dir is not None:
            folder = f"file://{Path(config_dir).expanduser().resolve()}"
            path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
        yield Hydra.create_main_hydra2("neurexp", path)
    finally:
        whole.hydra, base.version_base, runtime.conf, of_store, repo = known
        vars(store).clear()
        vars(store).update(of_store)
        store.repo = repo
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)


def _two_levels(groups: dict[str, Any]) -> dict[str, Any]:
    """A copy of Hydra's store of configs as deep as we write into it: groups, and the choices of each."""
    return {name: dict(choices) if isinstance(choices, dict) else choices for name, choices in groups.items()}


@contextmanager
def _torch_as_before() -> Iterator[None]:
    """PyTorch's threads and precision are as before afterwards, if it was imported before."""
    torch = sys.modules.get("torch")
    known = (torch.get_num_threads(), torch.get_float32_matmul_precision()) if torch is not None else None
    try:
        yield
    finally:
        if torch is not None and known is not None:
            torch.set_num_threads(known[0])
            torch.set_float32_matmul_precision(known[1])


make_callable(__name__, run)


if __name__ == "__main__":
    from neurexp.cli import main

    main()
