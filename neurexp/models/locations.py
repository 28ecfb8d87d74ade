"""Locations of models: the embedded one, a local folder, or a repository on the Hub at a commit.

Loads nothing and imports nothing heavy, so that a wrong name is reported within seconds.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Location:
    """A folder, or a Hub repository at a commit."""

    path: str
    repository: hub.Repository | None = None

    @property
    def identity(self) -> str:
        return self.repository.commit if self.repository else self.path

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
    if exists:
        raise UserError(f"{option}={name}: is a file; give the folder that holds it, or a Hub id")
    if not hub.is_repository_id(name):
        raise UserError(f"{option}={name}: no such folder, nor is it a Hub id (ORGANISATION/MODEL); mini works offline")
    repository = hub.resolve(name, revision, "model", option, tuple(files), offline="model=mini dataset=pydoc")
    return Location(str(repository.folder), repository)


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
    if weights != "random" and location.repository is not None:  # of a folder `load_model` will say so as fast
        contents.check_weights(given, names)


def download(location: Location, given: str) -> str:
    """The folder with all files of `location`, downloaded if necessary. `given` is the option and its value."""
    return location.path if location.repository is None else str(hub.fetch(location.repository, given))


def check_reachable(name: str, revision: str, tokenizer: str | None, weights: str, has_architecture: bool) -> None:
    """Checks that everything that `load_model` needs exists. Raises UserError if not."""
    locate_parts(name, revision, tokenizer, weights, has_architecture)


def locate_parts(
    name: str, revision: str, tokenizer: str | None, weights: str, has_architecture: bool
) -> tuple[Location | None, Location]:
    """The locations of config and weights (None: built from the named architecture) and of the tokenizer."""
    files = TOKENIZER_FILES if tokenizer is None else []
    location = None
    if weights != "random" or not has_architecture:
        files = CONFIG_FILES + (WEIGHT_FILES if weights != "random" else []) + files
        location = _locate(name, revision, "model.name", files)
        _check_model(location, f"model.name={name}", weights)
    if tokenizer is not None:
        return location, _locate(tokenizer, "main", "model.tokenizer", TOKENIZER_FILES)
    return location, location or _locate(name, revision, "model.tokenizer", files)
