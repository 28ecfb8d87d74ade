"""What a model is called in titles: by something that a person recognises.

Reads at most the model's `config.json`, and loads nothing.
"""

import re
from pathlib import Path

from neurexp.errors import UserError
from neurexp.io import hub
from neurexp.models import contents
from neurexp.models.locations import MINI, Location

HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
SNAPSHOT = re.compile(r"(^|/)models--(?P<id>[^/]+)/snapshots/[0-9a-f]{40}$")  # of a Hub id in huggingface_hub's cache
# Folders and files that many models are in
COMMON = {"model", "models", "checkpoint", "checkpoints", "output", "outputs", "result", "results", "run", "runs"}
CHECKPOINT = re.compile(r"(checkpoint|step|epoch)[-_]?\d+")  # a trainer's folder


def label_of(name: str, location: Location | None, given: str | None = None) -> str:
    """A short name of a model for titles.

    Args:
        name: what `model.name` says.
        location: where it was found; None if nothing of it is read.
        given: the user's own (`model.label`), which is taken as it is.

    Returns:
        `given`; or the last part of a Hub id; or, for a folder, the Hub id that its `config.json` has as
        `_name_or_path`, else the last two parts of its path; for a GGUF file its name without the suffix.

    Raises:
        UserError: `given` is empty, or has a line break or another character that cannot be printed.
    """
    if given is not None:
        if not given.strip() or not given.isprintable():
            raise UserError(
                f"model.label={given!r}: cannot be a title; give a name of one line, or leave model.label out"
            )
        return given.strip()
    if location is None or location.repository is not None:
        last = name.rpartition("/")[2]
        return last if last.lower() not in COMMON else name
    path = Path(location.path)
    if path == MINI:
        return "mini"
    if location.is_gguf:
        stem = path.name[: -len(path.suffix)]
        return stem if stem.lower() not in COMMON else _last_two(path.with_name(stem))
    if snapshot := SNAPSHOT.search(path.as_posix()):
        return snapshot["id"].rpartition("--")[2]
    kept = contents.read_json(path / "config.json").get("_name_or_path")
    return kept if isinstance(kept, str) and _is_id(kept) else _last_two(path)


def _is_id(text: str) -> bool:
    """Whether `text` is a Hub id, ORGANISATION/NAME, and not the path of a folder on the machine that saved it."""
    if "/" not in text or not hub.is_repository_id(text):
        return False
    parts = text.lower().split("/")
    return not any(part in COMMON or CHECKPOINT.fullmatch(part) for part in parts) and not Path(text).exists()


def _last_two(path: Path) -> str:
    """The last two parts of a path that are no hash; the whole path if there is only one."""
    parts = [part for part in path.parts if part != path.anchor]
    telling = [part for part in parts if not HASH.fullmatch(part)] or parts
    return "/".join(telling[-2:]) if len(telling) > 1 else path.as_posix()
