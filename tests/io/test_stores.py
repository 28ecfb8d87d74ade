"""MLflow's stores: opened by several at once, in places that are none, of other versions, named by the environment."""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Finished, environment
from mlflow import MlflowClient

from neurexp.config.schema import Backend, TrackingConfig
from neurexp.errors import UserError, without_secrets
from neurexp.io import mlflow_stores as stores
from neurexp.io.mlflow_stores import experiment_of, open_store, store_of, with_password
from neurexp.runs import sweep
from neurexp.tracking.tracker import download, start

MLFLOW = TrackingConfig(Backend.mlflow)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_") and "LEVEL" not in name]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def made(finished: Finished) -> Path:
    """An MLflow store: to make one takes seconds."""
    return finished.outputs / "mlflow.db"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> stores.Store:
    """A copy of it."""
    shutil.copy(made, tmp_path / "copy.db")
    return store_of(f"sqlite:///{tmp_path / 'copy.db'}", tmp_path)


def in_threads(*calls) -> list:
    """What each call gives or raises, all started together."""
    results: list = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def work(index: int) -> None:
        ready.wait()
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# At once


def test_a_new_sqlite_store_is_made_once_by_all_that_want_it_under_whatever_path(made, tmp_path, monkeypatch):
    there, times = tmp_path / "there", []
    there.mkdir()
    (tmp_path / "link").symlink_to(there)
    monkeypatch.chdir(tmp_path)

    def make(file: Path) -> None:
        times.append(file)
        time.sleep(0.3)
        assert not file.exists()
        shutil.copy(made, file)

    monkeypatch.setattr(stores, "_make", make)
    paths = (f"{there}/x.db", "there/x.db", f"{tmp_path}/link/x.db", f"{there}/../there/x.db") * 2
    clients = in_threads(*(lambda path=path: open_store(store_of(f"sqlite:///{path}", tmp_path)) for path in paths))
    assert times == [there / "x.db"]
    for client in clients:
        assert isinstance(client, MlflowClient), client
        assert client.get_experiment_by_name("token_length") is not None
    assert [file.name for file in there.iterdir()] == ["x.db"]


@pytest.mark.slow
def test_six_processes_make_one_store_and_one_experiment_and_a_run_each(tmp_path):
    """MLflow's own migrations would run into each other."""
    script = (
        "import sys; from pathlib import Path; from neurexp.config.schema import Backend, TrackingConfig; "
        "from neurexp.tracking.tracker import start; "
        "start(TrackingConfig(Backend.mlflow, 'sqlite:///race.db'), Path('o').resolve(), 'new', sys.argv[1], {})"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"run {number}"],
            cwd=tmp_path,
            env=environment(tmp_path / "hf"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(6)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert ([process.returncode for process in processes], said) == ([0] * 6, [""] * 6)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'race.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "new"]
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(str(run.info.run_name) for run in runs) == [f"run {number}" for number in range(6)]


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_again(tmp_path):
    script = (
        "from pathlib import Path; from neurexp.io.mlflow_stores import *; "
        "open_store(store_of('sqlite:///x.db', Path.cwd())); print('made')"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path / "hf"))
    while not [file for file in tmp_path.glob(".x.db.*.tmp") if file.stat().st_size > 200_000]:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "x.db").exists()
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path / "hf"), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("made\n", "")


def test_a_store_that_mlflow_itself_is_making_is_waited_for(store, monkeypatch):
    """Its server, on the same new file, which has tables and no version for a while."""
    look, looks = stores._revision_in, []

    def look_while_it_is_made(file: Path) -> str | None:
        looks.append(file)
        return look(file) if len(looks) > 1 else None

    monkeypatch.setattr(stores, "_revision_in", look_while_it_is_made)
    assert store.file is not None
    os.utime(store.file)  # somebody is writing to it
    assert isinstance(open_store(store), MlflowClient)
    assert looks == [store.file] * 2


def test_two_that_make_an_experiment_at_the_same_moment_get_the_same(store, tmp_path, monkeypatch):
    """As on a server, where no lock of ours reaches: both have looked before either has made it."""
    client, looked, real = open_store(store), threading.Barrier(2), MlflowClient.get_experiment_by_name
    first = threading.local()

    def look(self: MlflowClient, name: str):
        found = real(self, name)
        if not getattr(first, "done", False):
            first.done = True
            looked.wait(timeout=30)
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look)
    one, other = in_threads(*[lambda: experiment_of(client, store, "new", tmp_path / "artifacts")] * 2)
    assert one == other
    assert client.get_experiment(one).name == "new"


@pytest.mark.slow
def test_runs_that_reach_a_fresh_server_at_once_are_all_begun(tmp_path):
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"),
            *(f"--backend-store-uri=sqlite:///{tmp_path / 'server.db'}", f"--artifacts-destination={tmp_path / 'art'}"),
        ],
        env=environment(tmp_path / "hf", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),  # seven processes less
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        uri = f"http://me:secret@127.0.0.1:{port}"
        trackers = in_threads(
            *(
                lambda number=number: start(TrackingConfig(Backend.mlflow, uri), tmp_path, "new", f"run {number}", {})
                for number in range(6)
            )
        )
        assert [tracker for tracker in trackers if isinstance(tracker, Exception)] == []
        client = MlflowClient(tracking_uri=uri)
        (experiment,) = [one for one in client.search_experiments() if one.name == "new"]
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == 6
    finally:
        os.killpg(server.pid, 9)
        server.wait()


# An experiment that was deleted


def test_a_deleted_experiment_is_one_line_with_the_command_that_brings_it_back(store, tmp_path):
    client = open_store(store)
    made = experiment_of(client, store, "gone", tmp_path)
    client.delete_experiment(made)
    with pytest.raises(UserError) as told:
        start(TrackingConfig(Backend.mlflow, store.uri), tmp_path, "gone", "name", {})
    line = str(told.value)
    assert line.startswith(f"tracking.uri={store.uri}: the experiment gone was deleted there; `")
    assert line.endswith("` brings it back, and tracking.experiment=NAME chooses another")
    variable, *command = shlex.split(line.split("`")[1])
    assert variable == f"MLFLOW_TRACKING_URI={store.uri}"
    assert command == ["python", "-m", "mlflow", "experiments", "restore", "--experiment-id", made]
    other = start(TrackingConfig(Backend.mlflow, store.uri, "other"), tmp_path, "gone", "name", {})
    assert other.run_id is not None
    assert client.get_experiment(client.get_run(other.run_id).info.experiment_id).name == "other"


@pytest.mark.slow
def test_the_commands_that_the_lines_name_work(store, tmp_path):
    client = open_store(store)
    made = experiment_of(client, store, "gone", tmp_path)
    client.delete_experiment(made)
    with pytest.raises(UserError) as told:
        experiment_of(client, store, "gone", tmp_path)
    command = str(told.value).split("`")[1].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, capture_output=True, env=environment(tmp_path / "hf"))
    assert experiment_of(client, store, "gone", tmp_path) == made


# Places that are none, and stores of others


def settle(file: Path) -> None:
    """Makes a file look as if nobody had written to it for an hour."""
    os.utime(file, (time.time() - 3600,) * 2) if file.exists() else None


def without_schema(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE birds (name TEXT)")
        connection.commit()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.mkdir(), r": MLflow cannot be opened there \(.*Is a directory.*\); give tracking\.uri="),
        (lambda file: file.write_text("a,b\n"), r": .*x\.db is no SQLite file; give tracking\.uri=sqlite:///FILE"),
        (without_schema, r": .*x\.db is a database of another program; give tracking\.uri=sqlite:///FILE of a new one"),
        (
            lambda file: file.with_name(".x.db.lock").mkdir(),  # as where the folder takes no new file
            r": nothing can be written in .* \(.*\), which SQLite needs; .*; tracking=off works",
        ),
    ],
)
def test_what_is_no_store_is_one_line_at_once_and_stays_as_it_is(tmp_path, spoil, told):
    file = tmp_path / "x.db"
    spoil(file)
    settle(file)
    before = sorted(tmp_path.iterdir())
    content = file.read_bytes() if file.is_file() else None
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"^tracking\.uri=sqlite:///{file}{told}"):
        start(TrackingConfig(Backend.mlflow, f"sqlite:///{file}"), tmp_path, "token_length", "name", {})
    assert time.monotonic() - began < 5
    assert sorted(tmp_path.iterdir()) == before
    assert (file.read_bytes() if file.is_file() else None) == content


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://x.db", "sqlite:x.db"])
def test_an_address_without_a_file_is_refused(tmp_path, uri):
    with pytest.raises(UserError, match=r"names no file; write tracking\.uri=sqlite:///FILE$"):
        store_of(uri, tmp_path)


@pytest.mark.parametrize(
    ("revision", "told"),
    [
        # The first one that MLflow ever had
        (
            "451aebb31d03",
            r"an earlier MLflow made this store; make a copy of it, then `python -m mlflow db upgrade .*`$",
        ),
        ("ffffffffffff", r"a later MLflow than .* made this store; `pip install -U mlflow`, or give another one$"),
    ],
)
def test_a_store_of_another_mlflow_is_left_alone_and_told(store, tmp_path, revision, told):
    assert store.file is not None
    with closing(sqlite3.connect(store.file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.execute("DROP TABLE datasets")  # a table less, and MLflow would change the store unasked
        connection.commit()
    settle(store.file)
    before = store.file.read_bytes()
    with pytest.raises(UserError, match=told):
        open_store(store)
    assert store.file.read_bytes() == before


def test_a_server_that_is_not_there_is_one_short_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as told:
        start(TrackingConfig(Backend.mlflow, "http://me:secret@127.0.0.1:9"), tmp_path, "token_length", "name", {})
    assert str(told.value) == (
        "tracking.uri=http://***@127.0.0.1:9: MLflow cannot be opened there (no server answers: Connection refused); "
        "tracking=off works"
    )
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    with pytest.raises(UserError, match=r"^--uri=http://127\.0\.0\.1:9: MLflow cannot be opened there"):
        download("0" * 32, "http://127.0.0.1:9", tmp_path)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"  # as patient with it as a run: MLflow would be for minutes


# The environment


def test_the_option_comes_first_then_the_environment_then_the_outputs(tmp_path, monkeypatch):
    assert store_of(None, tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    found = store_of(None, tmp_path)
    assert (found.uri, found.given) == ("http://me:secret@host:5000", "MLFLOW_TRACKING_URI=http://***@host:5000")
    assert found.where == "http://***@host:5000"
    assert store_of("http://other", tmp_path).uri == "http://other"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")  # as good as none
    assert store_of(None, tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_relative_path_starts_where_it_is_said_to_and_a_percent_escape_is_read(tmp_path):
    assert store_of("sqlite:///a%20b.db?timeout=3", tmp_path, tmp_path).file == tmp_path / "a b.db"
    assert store_of("sqlite:///a b.db?timeout=3", tmp_path, tmp_path).uri == f"sqlite:///{tmp_path}/a b.db?timeout=3"


def test_a_password_is_found_again_where_the_user_gave_it(monkeypatch):
    kept, folder = "http://***@host", Path("run")
    assert with_password("http://host", folder) == "http://host"
    with pytest.raises(UserError, match=r"^run: the password of http://\*\*\*@host is not stored; give --uri=ADDRESS$"):
        with_password(kept, folder, "http://me:a@other")
    assert with_password(kept, folder, "http://me:b@host") == "http://me:b@host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:c@host")
    assert with_password(kept, folder) == "http://me:c@host"
    in_query = "postgresql://host/db?sslmode=require&password=b1/2"
    assert without_secrets(f"{in_query} no") == "postgresql://host/db?sslmode=require&password=*** no"
    assert with_password(without_secrets(in_query), folder, in_query) == in_query


def test_the_variables_of_mlflow_are_taken_and_said(quick_cli, made, tmp_path):
    shutil.copy(made, tmp_path / "wanted.db")
    small = ("model=mini", "dataset=pydoc", "dataset.tokens=64", "dataset.sequence_length=32")
    uri = f"sqlite:///{tmp_path / 'wanted.db'}"
    names = {"MLFLOW_EXPERIMENT_NAME": "/my/project", "MLFLOW_RUN_ID": "0123", "MLFLOW_TRACKING_PASSWORD": "x1y2z3"}
    process = quick_cli(*small, MLFLOW_TRACKING_URI=uri, **names)
    assert (process.returncode, process.stderr) == (0, "")
    assert f"MLFLOW_TRACKING_URI={uri} is used; tracking.uri=ADDRESS chooses another" in process.stdout
    assert "MLFLOW_EXPERIMENT_NAME=/my/project is used; tracking.experiment=NAME chooses another" in process.stdout
    assert "MLFLOW_RUN_ID=0123 is not used: every run makes an MLflow run of its own" in process.stdout
    assert not (tmp_path / "outputs" / "mlflow.db").exists()
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("/my/project").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith((tmp_path / "outputs" / "mlartifacts" / "_my_project").as_uri())
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if b"x1y2z3" in file.read_bytes()] == []


def test_an_experiment_id_of_the_environment_is_used_or_refused(store, tmp_path, monkeypatch):
    client = open_store(store)
    made = experiment_of(client, store, "by id", tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", made)
    assert stores.experiment_name(client, None, "own") == "by id"
    assert stores.from_environment(None, None)[0].startswith(f"MLFLOW_EXPERIMENT_ID={made} is used")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    assert stores.experiment_name(client, None, "own") == "by name"
    (said,) = stores.from_environment(None, None)  # only the name is used
    assert said.startswith("MLFLOW_EXPERIMENT_NAME=by name is used")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert stores.experiment_name(client, "option", "own") == "option"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7777")
    with pytest.raises(UserError, match=r"^MLFLOW_EXPERIMENT_ID=7777: no such experiment .*tracking\.experiment=NAME$"):
        stores.experiment_name(client, None, "own")


def test_a_run_that_somebody_deleted_is_begun_anew(store, tmp_path):
    config = TrackingConfig(Backend.mlflow, store.uri)
    first = start(config, tmp_path, "new", "name", {})
    client = open_store(store)
    client.delete_run(str(first.run_id))
    again = start(config, tmp_path, "new", "name", {}, run_id=first.run_id)
    assert again.run_id != first.run_id
    assert start(config, tmp_path, "new", "name", {}, run_id=again.run_id).run_id == again.run_id
    folder = tmp_path / "sweep"
    parent = sweep.parent(config, tmp_path, "new", folder)
    assert sweep.parent(config, tmp_path, "new", folder) == parent
    client.delete_run(str(parent))
    assert sweep.parent(config, tmp_path, "new", folder) not in (parent, None)
