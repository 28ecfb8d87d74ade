"""MLflow stores: the address that a user means, and opening or making the store safely.

MLflow makes a new SQLite store in many steps. Two processes at once, or one that is killed, would leave it broken. So a
store is made at a temporary place, under a lock, and moved into place when it is complete. Problems with a store are
reported before MLflow retries it for a minute. Knows neither our runs nor our experiments. Imports MLflow only when a
store is opened.
"""

import logging
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from filelock import FileLock, Timeout

from neurexp.errors import HIDDEN, UserError, one_line, without_secrets
from neurexp.io.files import whole_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow logs what it also raises, and the migrations of a new database
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password in it
logging.getLogger("alembic").setLevel(logging.WARNING)

ADDRESS, EXPERIMENT, EXPERIMENT_ID = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
SETTLED = 5  # seconds without a change, after which no process is making the store
PATIENCE = 120  # seconds to wait for another process that makes the same store
SQLITE = re.compile(r"(sqlite(?:\+\w+)?):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Store:
    """An MLflow store or server."""

    uri: str  # as MLflow takes it, with the password if there is one; paths are absolute
    given: str  # how the user named it, OPTION=VALUE without a password, for messages
    file: Path | None = None  # of an SQLite store: its real path, so that there is one lock
    is_own: bool = False  # nobody named a store: it is the one in the folder of all outputs

    @property
    def where(self) -> str:
        """The command or address with which a person opens it, without the password."""
        shown = without_secrets(self.uri)
        if self.is_server:
            return shown
        if not self.is_own:
            return f"python -m neurexp.ui --uri {shlex.quote(shown)}"
        assert self.file is not None
        outputs = self.file.parent
        return "python -m neurexp.ui" + (
            "" if outputs == Path("outputs").resolve() else f" --outputs {shlex.quote(str(outputs))}"
        )

    @property
    def is_server(self) -> bool:
        """Whether a server decides where artifacts are stored."""
        return not re.match(r"(sqlite|postgres|mysql|mssql|file:|[./\w-]+$)", self.uri) or self.uri == "databricks"


def given_address(uri: str | None) -> str | None:
    """The address of the option, else of the environment, unchanged; None if neither is set."""
    return uri or os.environ.get(ADDRESS, "").strip() or None


def from_environment(uri: str | None, experiment: str | None) -> list[str]:
    """Lines about MLflow's own environment variables and which of them are used, without passwords."""

    def given(*names: str) -> Iterator[str]:
        return (f"{name}={without_secrets(value)}" for name in names if (value := os.environ.get(name, "").strip()))

    lines = [] if uri else [f"{text} is used; tracking.uri=ADDRESS chooses another" for text in given(ADDRESS)]
    if not experiment:
        named = list(given(EXPERIMENT, EXPERIMENT_ID))[:1]  # as `experiment_name` does
        lines += [f"{text} is used; tracking.experiment=NAME chooses another" for text in named]
    return lines + [f"{text} is not used: every run makes an MLflow run of its own" for text in given("MLFLOW_RUN_ID")]


def store_of(uri: str | None, outputs: Path, folder: Path | None = None, option: str = "tracking.uri") -> Store:
    """The store that the option names, else MLFLOW_TRACKING_URI, else the one in the folder of all outputs.

    Args:
        uri: the option's value.
        outputs: the folder of all outputs, an absolute path.
        folder: relative paths in the address start here; the current folder if not given.
        option: the option's name, for messages.

    Raises:
        UserError: the address names no store.
    """
    address = given_address(uri)
    if address is None:
        file = outputs / "mlflow.db"
        return Store(f"sqlite:///{file}", f"run.outputs={outputs}", file, is_own=True)
    given = without_secrets(f"{option if uri else ADDRESS}={address}")
    if not (parts := SQLITE.fullmatch(address)):
        return Store(address, given)
    if "file:" in parts[2]:  # SQLite's own form of an address
        return Store(address, given)
    path, mark, query = unquote(parts[2]).partition("?")
    if not path.startswith("///") or path in ("///", "///:memory:"):
        raise UserError(f"{given}: names no file; write {option}=sqlite:///FILE")
    file = Path(folder or Path.cwd(), path.removeprefix("///")).resolve()
    if "%" in str(file):
        raise UserError(f"{given}: MLflow cannot open a file with % in its path; choose another")
    return Store(f"{parts[1]}:///{file}{mark}{query}", given, file)


def with_password(stored: str, folder: Path, given: str | None = None, option: str = "--uri") -> str:
    """The address `stored` in a run folder, with the password of the same address in `given` or in the environment.

    Raises:
        UserError: neither is that address; the message asks for it by `option`.
    """
    if HIDDEN not in stored:
        return stored
    for address in (given, given_address(None)):
        if address and without_secrets(address) == stored:
            return address
    raise UserError(f"{folder}: the password of {stored} is not stored; give {option}=ADDRESS")


def open_store(store: Store, make: bool = True) -> "MlflowClient":
    """Opens the store, and makes it first if it is an SQLite file that does not exist.

    Raises:
        UserError: it cannot be opened.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
    if store.file is not None:
        _check_file(store, store.file, make)
    from mlflow import MlflowClient

    try:
        if store.file is not None:
            if not _exists(store.file):
                with _locked(store, store.file) as lock:
                    if not _exists(store.file):
                        _make(store.file)
                    lock.unlink(missing_ok=True)  # nobody needs it from now on
            _check_schema(store, store.file)
        client = MlflowClient(tracking_uri=store.uri)
        client.search_experiments(max_results=1)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_explained(store, error)) from error
    return client


@contextmanager
def _locked(store: Store, file: Path) -> Iterator[Path]:
    """Keeps other processes from making this store while the block runs. Yields the lock's file."""
    lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{store.given}: another process has been making this store for {PATIENCE} seconds; end it, or remove "
            f"{lock.lock_file} if there is none"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{store.given}: nothing can be written in {file.parent} ({one_line(error)}), which SQLite needs; give "
            "tracking.uri=sqlite:///FILE of another folder; tracking=off works"
        ) from error
    try:
        yield Path(lock.lock_file)
    finally:
        lock.release()


def experiment_of(client: "MlflowClient", store: Store, name: str, artifacts: Path) -> str:
    """The id of MLflow's experiment of this name. It is made if it does not exist.

    Args:
        client: of the store.
        store: for messages.
        name: MLflow's name for the experiment.
        artifacts: where a new experiment's artifacts go, unless a server decides that.

    Raises:
        UserError: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            location = None if store.is_server else artifacts.as_uri()
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:  # another process has just made it
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    if found.lifecycle_stage == "deleted":
        back = f"{ADDRESS}={shlex.quote(without_secrets(store.uri))} python -m mlflow experiments restore"
        raise UserError(
            f"{store.given}: the experiment {name} was deleted there; `{back} --experiment-id {found.experiment_id}` "
            "brings it back, and tracking.experiment=NAME chooses another"
        )
    return found.experiment_id


def experiment_name(client: "MlflowClient", option: str | None, own: str) -> str:
    """MLflow's name for the experiment: the option's, else the environment's, else the experiment's own.

    Raises:
        UserError: the store has no experiment with the id MLFLOW_EXPERIMENT_ID.
    """
    from mlflow.exceptions import MlflowException

    name, identifier = (os.environ.get(variable, "").strip() for variable in (EXPERIMENT, EXPERIMENT_ID))
    if option or name or not identifier:
        return option or name or own
    try:
        return client.get_experiment(identifier).name
    except MlflowException as error:
        raise UserError(
            f"{EXPERIMENT_ID}={identifier}: no such experiment ({one_line(error)}); unset it, or give "
            "tracking.experiment=NAME"
        ) from error


def _exists(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _check_file(store: Store, file: Path, make: bool) -> None:
    """Checks that the file is a store or can become one. Raises UserError."""
    try:
        if not _exists(file):
            if not make:
                raise UserError(f"{store.given}: no MLflow store there; give the address of an existing one")
            file.parent.mkdir(parents=True, exist_ok=True)
            return
        with file.open("r+b" if make else "rb") as opened:  # MLflow would retry for a minute
            kind = opened.read(16)
    except OSError as error:
        raise UserError(
            f"{store.given}: MLflow cannot be opened there ({one_line(error)}); give tracking.uri=sqlite:///FILE of a "
            "place that can be written; tracking=off works"
        ) from error
    if kind != b"SQLite format 3\0":
        raise UserError(f"{store.given}: {file} is no SQLite file; give tracking.uri=sqlite:///FILE of a new one")


def _make(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with whole_file(file) as temporary:
        made = SqlAlchemyStore(f"sqlite:///{temporary}", "mlruns")
        made.engine.dispose()


def _check_schema(store: Store, file: Path) -> None:
    """Checks that the tables belong to this version of MLflow, which would otherwise migrate them without asking."""
    from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision

    latest, end = _get_latest_schema_revision(), time.monotonic() + PATIENCE
    while True:
        revision = _revision_in(file)
        if revision == latest:
            return
        if time.time() - file.stat().st_mtime > SETTLED or time.monotonic() > end:
            break
        time.sleep(0.2)  # MLflow's own server may be making it
    if revision is None:
        raise UserError(
            f"{store.given}: {file} is a database of another program; give tracking.uri=sqlite:///FILE of a new one"
        )
    from alembic.script import ScriptDirectory

    known = False
    with suppress(Exception):
        known = ScriptDirectory.from_config(_get_alembic_config("")).get_revision(revision) is not None
    raise UserError(_other_version(store, known))


def _revision_in(file: Path) -> str | None:
    """The version of MLflow's schema in a database; None if it is not MLflow's, or not complete."""
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "experiments"} <= tables:
            return None
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
        return revision


def _other_version(store: Store, earlier: bool) -> str:
    from mlflow.version import VERSION

    if earlier:
        command = f"python -m mlflow db upgrade {shlex.quote(without_secrets(store.uri))}"
        return f"{store.given}: an earlier MLflow made this store; make a copy of it, then `{command}`"
    return f"{store.given}: a later MLflow than {VERSION} made this store; `pip install -U mlflow`, or give another one"


def _explained(store: Store, error: Exception) -> str:
    text = str(error)
    if "mlflow db upgrade" in text:
        return _other_version(store, True)
    if "mlflow migrate-filestore" in text:
        return f"{store.given}: MLflow keeps no runs in plain folders any more; give tracking.uri=sqlite:///FILE"
    reason = one_line(error)
    if "Max retries exceeded" in text:
        cause = re.search(r"\[Errno -?\d+\] ([\w ]+)", text)
        reason = "no server answers" + (f": {cause[1]}" if cause else "")
    elif "unsupported URI" in text:
        reason = "no address that MLflow knows; http://HOST:PORT and sqlite:///FILE are"
    return f"{store.given}: MLflow cannot be opened there ({reason}); tracking=off works"
