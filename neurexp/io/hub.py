"""The Hugging Face Hub: the commit of a revision, its size, and its files, all of them or none.

Within seconds this module tells a Hub that cannot be reached from one that refuses. If it cannot be reached, the copy
in the cache is used. If it is busy, requests wait as long as it asks, within limits. Knows nothing of models or text.
"""

import fnmatch
import logging
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from neurexp.errors import UserError, closest, one_line
from neurexp.io.files import whole_file

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds to wait for the Hub's first answer
BUSY = (408, 429, 500, 502, 503, 504)  # status codes after which another try may succeed
WAITS = (1, 2, 4, 8, 16)  # seconds before each further try, unless the Hub asks for more
PATIENCE = 300  # seconds to wait for one answer at most; the Hub counts requests over five minutes


class HubBusyError(Exception):
    """The Hub stayed busy until we gave up. It is no OSError, because libraries read that as a missing file."""


class UnreachableError(UserError):
    """The Hub cannot be reached, and the cache has no copy."""


@dataclass(frozen=True)
class Repository:
    """A repository at a commit."""

    name: str
    revision: str  # as the user gave it
    kind: str  # `model` or `dataset`
    commit: str
    files: tuple[str, ...] = ()  # requested files that exist
    listing: tuple[str, ...] = ()  # every file of the repository, if the Hub was reached
    unreachable: str = ""  # why the Hub was not reached; then the cache is used

    @property
    def folder(self) -> Path:
        """The cache's folder for the files of this commit."""
        return _cache_folder(self.name, self.kind) / "snapshots" / self.commit


def is_repository_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id: ORGANISATION/NAME, or a bare NAME."""
    return re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", name) is not None


@cache
def resolve(
    name: str, revision: str, kind: str, option: str, files: tuple[str, ...] | None, offline: str
) -> Repository:
    """Resolves `revision` of a repository to a commit. Logs the size and the place of a download that will follow.

    Args:
        name: ORGANISATION/NAME.
        revision: branch, tag or commit.
        kind: `model` or `dataset`.
        option: the option that gave `name`, for messages.
        files: patterns of the files that will be fetched, or None if only the card is kept (a streamed dataset).
        offline: what works without a network, for messages.

    Returns:
        The commit, and which of `files` it has. If the Hub cannot be reached: the commit of the copy in the cache, or
        for a dataset the commit of an earlier run, whose tokens may be stored.

    Raises:
        UserError: no such repository or revision, gated, or neither reachable nor in the cache.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    given = f"{option}={name}"
    _be_patient()
    if constants.HF_HUB_OFFLINE:
        return _cached_or_refuse(name, revision, kind, given, offline, "HF_HUB_OFFLINE is set")

    def ask() -> Any:
        info = HfApi().repo_info(
            name, revision=revision, repo_type=kind, timeout=TIMEOUT, files_metadata=files is not None
        )
        if getattr(info, "gated", False):
            HfApi().auth_check(name, repo_type=kind)
        return info

    try:
        info = _retry_if_cut(ask)
    except GatedRepoError:
        raise UserError(f"{given}: {_gated(name, kind)}") from None
    except RevisionNotFoundError:
        raise UserError(
            f"{option.rsplit('.')[0]}.revision={revision}: {name} has no such revision on the Hub; "
            "give a branch, tag or commit of it"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{given}: no such folder here and no such {kind} on the Hub (or it is private: `hf auth login`); "
            f"offline: {offline}"
        ) from None
    except Exception as error:  # the HTTP library of huggingface_hub has its own exceptions
        return _cached_or_refuse(name, revision, kind, given, offline, one_line(error))
    wanted = [file for file in info.siblings or () if _is_needed(file.rfilename, files or ("README.md",))]
    names, listing = (tuple(file.rfilename for file in some) for some in (wanted, info.siblings or ()))
    repository = Repository(name, revision, kind, info.sha, names, listing)
    if files is None:
        _remember(repository)  # a run whose tokens are stored fetches nothing
    else:
        _announce(name, info, wanted, kind)
    return repository


def fetch(repository: Repository, given: str) -> Path:
    """Downloads the repository's missing files. Returns the folder in the cache that has them all.

    transformers on its own treats a file that it could not get as one that does not exist, and then builds, for
    example, another tokenizer.

    Raises:
        UserError: a file could not be downloaded; `given` is the option and its value.
    """
    if repository.unreachable:
        return repository.folder
    # Weights come last: an interrupted download lacks them, and cannot pass for a complete copy offline
    for file in sorted(repository.files, key=lambda name: (name.endswith(".safetensors"), name)):
        fetch_one(repository, file, given)
    _remember(repository)
    return repository.folder


def fetch_one(repository: Repository, file: str, given: str) -> Path:
    """Downloads one file of the repository unless the cache has it.

    Raises:
        UserError: it could not be downloaded; `given` is the option and its value.
    """
    from huggingface_hub import hf_hub_download

    if not repository.unreachable:
        try:
            hf_hub_download(repository.name, file, revision=repository.commit, repo_type=repository.kind)
        except Exception as error:  # whichever HTTP library huggingface_hub brings has its own
            raise UserError(
                f"{given}: {file} cannot be fetched from the Hub ({explain(error, repository.name, repository.kind)}); "
                "run again: what is complete is kept"
            ) from error
    return repository.folder / file


def explain(error: BaseException, name: str, kind: str) -> str:
    """Why a request to the Hub failed, in a few words: the root cause, which libraries may have wrapped."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    if isinstance(error, GatedRepoError):
        return _gated(name, kind)
    if error.__cause__ is not None and isinstance(error, LocalEntryNotFoundError | ConnectionError):
        return explain(error.__cause__, name, kind)
    return one_line(error)


def _gated(name: str, kind: str) -> str:
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    return f"gated; ask for access at {page}, then run `hf auth login`"


def _retry_if_cut(ask: Any) -> Any:
    """Calls `ask` a second time if the connection broke at once. A connection that timed out is not tried again."""
    start = time.monotonic()
    try:
        return ask()
    except Exception as error:
        answered = isinstance(error, HubBusyError) or getattr(error, "response", None) is not None
        if answered or time.monotonic() - start > TIMEOUT / 2:
            raise
    time.sleep(0.5)
    return ask()


def _is_needed(file: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file is needed. Files in folders are not: they hold the same weights in other formats."""
    return "/" not in file and any(fnmatch.fnmatch(file, pattern) for pattern in patterns)


_once = threading.Lock()  # otherwise two threads that start together would both install it


def _be_patient() -> None:
    """Makes every request of huggingface_hub, and so of datasets, wait for a busy Hub, within limits."""
    with _once:
        _patch_clients()


@cache
def _patch_clients() -> None:
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    logging.getLogger("huggingface_hub").handlers.clear()  # its messages about retries go into our log
    make = _http._GLOBAL_CLIENT_FACTORY  # the user's own, or the default one: neither has a public name

    def make_patient() -> Any:
        client = make()
        client.send = _patient(client.send)
        return client

    set_client_factory(make_patient)


def _patient(send: Any) -> Any:
    """Wraps `send` of an HTTP client: repeats requests to a busy Hub, and gives each a time limit.

    huggingface_hub has a back-off of its own, but not for the first requests nor for those for a file. It waits for any
    time that the Hub asks for, and sets no time limit for lists of files. A retry around our own calls would not do:
    datasets makes its requests itself, in the middle of a file.
    """
    from huggingface_hub import constants

    def patient(request: Any, **options: Any) -> Any:
        longest, given = float(constants.HF_HUB_DOWNLOAD_TIMEOUT), request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            stage: min(given.get(stage) or longest, longest) for stage in ("connect", "read", "write", "pool")
        }
        waited, tries = 0.0, 0
        while True:
            response = send(request, **options)
            if response.status_code not in BUSY or request.method not in ("GET", "HEAD"):
                return response
            response.close()
            answer = f"the Hub answers {response.status_code} {response.reason_phrase}"
            wait = max(asked_to_wait(response.headers) or 0.0, WAITS[min(tries, len(WAITS) - 1)])
            if waited + wait > PATIENCE:
                raise HubBusyError(f"{answer} and asks to wait {wait:.0f} s")
            if tries == len(WAITS):
                raise HubBusyError(f"{answer}, {tries + 1} times in {waited:.0f} s")
            log.info("T%s: the next try comes in %.0f s", answer[1:], wait)
            time.sleep(wait)
            waited, tries = waited + wait, tries + 1

    return patient


def asked_to_wait(headers: Any) -> float | None:
    """The seconds that a 429 or 503 asks to wait: from the Hub's own header, or from Retry-After in either form."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    with suppress(ValueError, TypeError):
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _announce(name: str, info: Any, wanted: list[Any], kind: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    def is_cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, revision=info.sha, repo_type=kind), str)

    absent = [file for file in wanted if not is_cached(file.rfilename)]
    if absent:
        megabytes = sum(file.size or 0 for file in absent) / 1e6
        log.info(
            "Downloading %d files of %s (%.1f MB, commit %s) to %s; HF_HOME moves it",
            len(absent),
            name,
            megabytes,
            info.sha[:12],
            constants.HF_HUB_CACHE,
        )


def _cache_folder(name: str, kind: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def _memory(name: str, revision: str, kind: str) -> Path:
    """The file with the commit of a revision when it was last resolved, or last fetched completely."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "neurexp" / _cache_folder(name, kind).name / quote(revision, safe="")


def _remember(repository: Repository) -> None:
    file = _memory(repository.name, repository.revision, repository.kind)
    with suppress(OSError):  # a shared cache may be read-only
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            temporary.write_text(repository.commit)


def _cached_or_refuse(name: str, revision: str, kind: str, given: str, offline: str, reason: str) -> Repository:
    """The commit known from earlier, if the Hub does not answer. Raises UserError with what works offline."""
    from huggingface_hub import constants

    folder, memory = _cache_folder(name, kind), _memory(name, revision, kind)
    reference, commit = folder / "refs" / revision, None
    if memory.is_file():
        commit = memory.read_text().strip()
    elif kind == "dataset":  # the cache holds no text, but a revision may be a commit itself
        commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else None
    elif reference.exists():
        commit = reference.read_text().strip()
    elif (folder / "snapshots" / revision).is_dir():
        commit = revision
    elif revision == "main" and (folder / "snapshots").is_dir():
        # A download by commit leaves no reference, so the latest copy is taken
        copies = sorted((folder / "snapshots").iterdir(), key=lambda copy: copy.stat().st_mtime)
        commit = copies[-1].name if copies else None
    repository = Repository(name, revision, kind, commit or "", unreachable=reason)
    if commit is None or (kind == "model" and not repository.folder.is_dir()):
        raise UnreachableError(
            f"{given}: not a folder here, and the Hub at {constants.ENDPOINT} cannot be reached ({reason})"
            f"{closest(name, ('mini',)) if kind == 'model' else ''}; offline: {offline}"
        )
    what = f"{name} comes" if kind == "model" else f"the tokens of {name} come"
    log.info("The Hub cannot be reached (%s): %s from the cache, commit %s", reason, what, commit[:12])
    return repository
