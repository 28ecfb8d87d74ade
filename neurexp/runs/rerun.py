"""`python -m neurexp.rerun RUN_FOLDER_OR_ID`: repeats a finished run from its own records, and compares the two.

The options are those of the run's own config. Model and dataset are pinned to the commits of the first run. Threads,
batches and environment variables of arithmetic are the same, and no stored results are used. Equal means equal to the
bit. Knows no experiment.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neurexp.config.mistakes import explain
from neurexp.config.schema import CONFIG_FOLDER, flat, quoted, register_schema
from neurexp.console import terminal
from neurexp.errors import UserError, one_line, without_secrets
from neurexp.io import mlflow_stores as stores
from neurexp.io.files import read_table
from neurexp.io.provenance import ARITHMETIC
from neurexp.report.folder import CONFIG, HYDRA
from neurexp.tracking.tracker import download, summary_of

# Facts that may differ between two equal runs
OF_NO_CONSEQUENCE = ("command_line", "working_folder", "reused", "resumed", "git_diff", "git_dirty")
SHOWN = 20  # differences


def main() -> None:
    """The command line. Exit code: 0 if all is equal, 1 if not, 2 if the run could not be repeated."""
    terminal.prepare()
    parser = argparse.ArgumentParser("python -m neurexp.rerun", description="Repeats a finished run, and compares.")
    parser.add_argument("run", metavar="RUN_FOLDER_OR_ID", help="a run folder, or the id of a run in MLflow")
    parser.add_argument("--uri", help="the MLflow store that the id is of, and that the new run goes to if given")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="the new run's folder")
    given = parser.parse_args()
    try:
        with terminal.without_a_log(), TemporaryDirectory() as copy:
            folder = Path(given.run).resolve()
            if not folder.is_dir():
                folder = download(given.run, given.uri, Path("outputs").resolve(), Path(copy))
            told = repeat(folder, given.into, given.uri)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if told else 0)


def repeat(folder: Path, into: Path | None = None, uri: str | None = None) -> list[str]:
    """Repeats the run of `folder` in a process of its own. Prints and returns the differences of the results.

    Args:
        folder: of a finished run.
        into: the new run's folder; a new one beside other runs if not given.
        uri: the MLflow store of the new run; that of the old one if not given.

    Raises:
        UserError: the folder is not that of a finished run, or the run failed this time.
    """
    before = summary_of(folder)
    facts = before["provenance"]
    home = Path(facts["working_folder"])
    home = home if home.is_dir() else Path.cwd()
    wanted = _config_of(folder)
    arguments = arguments_of(folder, wanted, facts)
    # The new process starts in another folder, so a relative path would be wrong
    address = stores.store_of(uri, home, option="--uri").uri if uri else _store_of(folder, before, wanted)
    if address is not None:
        arguments.append(f"tracking.uri={quoted(address)}")
    beside = home / Path(wanted.run.outputs).expanduser() / wanted.experiment.name
    again = (into or beside / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f_again")).resolve()
    command = [sys.executable, "-m"]
    if facts["processes"] > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={facts['processes']}", "-m"]
    command += ["neurexp", *_searched(folder), *arguments, f"hydra.run.dir={quoted(str(again))}"]
    print(f"In {home}: {without_secrets(shlex.join(['python', *command[1:]]))}\n", flush=True)
    surroundings = {name: value for name, value in os.environ.items() if not ARITHMETIC.match(name)}
    if subprocess.run(command, cwd=home, env=surroundings | facts["environment"], check=False).returncode != 0:
        raise UserError(f"{folder}: the run failed this time; its own message above says why")
    after = summary_of(again)
    causes = [*_unequal(_known(facts), _known(after["provenance"]))]
    effects = [*_unequal(before["metrics"], after["metrics"]), *_files_unequal(folder, again)]
    print(f"\nOnce:  {folder}\nAgain: {again}")
    _tell("Circumstances", causes)
    _tell("Results", effects)
    return effects


def _store_of(folder: Path, before: dict[str, Any], wanted: DictConfig) -> str | None:
    """The address of the old run's MLflow store, unless it was an SQLite file that does not exist any more."""
    kept = before.get("mlflow_store") or wanted.tracking.uri
    if kept is None:
        return None
    address = stores.with_password(kept, folder)
    file = stores.store_of(address, folder, Path(before["provenance"]["working_folder"])).file
    return address if file is None or file.exists() else None


def _config_of(folder: Path) -> DictConfig:
    try:
        return DictConfig(OmegaConf.load(folder / CONFIG))
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(
            f"{folder}: has no options of a run ({one_line(error)}); give the folder of a finished run"
        ) from error


def arguments_of(folder: Path, wanted: DictConfig, facts: dict[str, Any]) -> list[str]:
    """The overrides that turn today's configuration into `wanted`, the run's: its own, and more where needed."""
    from hydra import compose, initialize_config_dir

    file = folder / HYDRA / "overrides.yaml"
    arguments = list(OmegaConf.load(file)) if file.exists() else []
    pinned = {"run.reuse": False, "run.resume": False}
    pinned |= {f"device.{name}": facts[name] for name in ("threads", "batch_size")}
    if re.fullmatch("[0-9a-f]{40}", facts["model_revision"]):
        pinned["model.revision"] = facts["model_revision"]
    pinned |= _pinned_names(wanted, facts)
    if facts.get("source_run") and OmegaConf.select(wanted, "experiment.run") is not None:
        pinned["experiment.run"] = facts["source_run"]  # absolute: the old working folder may be gone
    if facts["dataset"]["source"] == "hub":
        pinned["dataset.revision"] = facts["dataset"]["resolved"]
    register_schema()
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            today, then = flat(compose("config", [*_searched(folder), *arguments])), flat(wanted)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{folder}: its options are none of today's ({explain(error)})") from error
    for name in sorted(then):  # options that are newer than the run keep their defaults
        if today.get(name) != then[name] and not name.startswith(("run.", "tracking.")):
            pinned.setdefault(name, OmegaConf.select(wanted, name))
    return arguments + [f"++{name}={quoted(value)}" for name, value in pinned.items()]


def _pinned_names(wanted: DictConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """The options that name what the run read where that was not what its config says, but its fallback."""
    name, tokenizer = (OmegaConf.select(wanted, f"model.{option}") for option in ("name", "tokenizer"))
    used, tokenizer_used = facts.get("model_name"), facts.get("tokenizer_name")
    if used is not None and used != name:
        pinned = {"model.name": used}
        if OmegaConf.select(wanted, "model.architecture.of") == name:  # a control has this architecture
            pinned["model.architecture.of"] = used
        return pinned
    if tokenizer_used is not None and tokenizer_used != (tokenizer or name):
        return {"model.tokenizer": tokenizer_used}
    return {}


def _searched(folder: Path) -> list[str]:
    """The override that adds the user's own config folders, if the run had any."""
    file = folder / HYDRA / "hydra.yaml"
    sources = OmegaConf.select(OmegaConf.load(file), "hydra.runtime.config_sources") if file.exists() else None
    own = [one for one in sources or [] if one.provider not in ("hydra", "main", "schema")]
    if gone := [one.path for one in own if one.schema == "file" and not Path(one.path).is_dir()]:
        raise UserError(f"{folder}: its options came from {gone[0]} as well, which is gone; put it back there")
    return [f"hydra.searchpath={quoted([f'{one.schema}://{one.path}' for one in own])}"] if own else []


def _known(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in facts.items():
        if name in OF_NO_CONSEQUENCE:
            continue
        known |= _known(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return known


def _unequal(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)}, now {after.get(name)}"


def _files_unequal(before: Path, after: Path) -> Iterator[str]:
    """The differences of the tables and tensors of two run folders."""
    names = {
        file.name
        for folder in (before, after)
        for kind in ("parquet", "safetensors")
        for file in folder.glob(f"*.{kind}")
    }
    for name in sorted(names):
        if not all((folder / name).exists() for folder in (before, after)):
            yield f"{name}: only in one of the two"
            continue
        old, new = _arrays(before / name), _arrays(after / name)
        for column in sorted(old.keys() | new.keys()):
            if column not in old or column not in new or old[column].shape != new[column].shape:
                yield f"{name} {column}: of another shape, or only in one of the two"
            elif old[column].dtype.kind not in "fiub":
                if not np.array_equal(old[column], new[column]):
                    yield f"{name} {column}: differs"
            elif not np.array_equal(old[column], new[column], equal_nan=True):
                most = np.nanmax(np.abs(old[column].astype(float) - new[column].astype(float)))
                yield f"{name} {column}: by up to {most:.3g}"


def _arrays(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(file)
    return read_table(file)


def _tell(what: str, different: list[str]) -> None:
    if not different:
        print(f"{what} are identical.")
        return
    print(f"{what} differ in {len(different)}:")
    for line in different[:SHOWN]:
        print(f"  {line}")
    if len(different) > SHOWN:
        print(f"  and {len(different) - SHOWN} more")
