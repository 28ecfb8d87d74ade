"""Gives a new SQLite store of MLflow its tables in milliseconds: MLflow's migrations take a second each time.

    copy_tables()       # from here on the first store of this process is made by MLflow, and the later ones are copies
    make_a_store()      # that first one, for a process whose forks are to find it

A store that has tables already, or that is not SQLite, is left to MLflow, and so is one in which a copy fails: its
errors are then MLflow's own.
"""

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy
from mlflow.store.db import utils

_by_mlflow = utils._initialize_tables
_tables = b""  # an empty store, as a file


def copy_tables() -> None:
    """New stores of this process, and of its forks, are copies from here on."""
    utils._initialize_tables = _initialize


def make_by_mlflow() -> None:
    """New stores are made by MLflow again."""
    utils._initialize_tables = _by_mlflow


def make_a_store() -> None:
    """The store that later ones are copied from."""
    with TemporaryDirectory() as folder:
        engine = utils.create_sqlalchemy_engine(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        _initialize(engine)
        engine.dispose()


def _initialize(engine: sqlalchemy.Engine) -> None:
    global _tables
    if engine.dialect.name != "sqlite" or sqlalchemy.inspect(engine).get_table_names():
        _by_mlflow(engine)
    elif not _tables:
        _by_mlflow(engine)
        with engine.connect() as connection:
            _tables = _sqlite(connection).serialize()
    else:
        try:
            _copy_to(engine)
        except sqlite3.Error:
            _by_mlflow(engine)


def _copy_to(engine: sqlalchemy.Engine) -> None:
    kept = sqlite3.connect(":memory:")
    try:
        kept.deserialize(_tables)
        with engine.connect() as connection:
            kept.backup(_sqlite(connection))
    finally:
        kept.close()


def _sqlite(connection: sqlalchemy.Connection) -> sqlite3.Connection:
    found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found
