"""Asks the Hugging Face Hub, before anything is fetched: is it there, may we, which commit, how large?

A Hub that cannot be reached is told from one that says no, within seconds, and a copy in the cache serves in its place.
Nothing is downloaded here; transformers and datasets do that, at the commit that `resolve` found.
"""

import fnmatch
import logging
import re
from functools import cache
from pathlib import Path

from neurexp.errors import UserError, one_line

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds for the Hub's first answer


def is_repository_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id: ORGANISATION/NAME, or a bare NAME."""
    return re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", name) is not None


@cache
def resolve(
    name: str, revision: str, kind: str, option: str, files: tuple[str, ...] | None, offline: str
) -> str | None:
    """The commit that `revision` of a repository stands for; says what a download will bring, how large and where to.

    Args:
        name: ORGANISATION/NAME.
        revision: branch, tag or commit.
        kind: `model` or `dataset`.
        option: the option that gave `name`, for messages.
        files: patterns of what will be fetched, or None where nothing is kept (a streamed dataset).
        offline: what to type where there is no network.

    Returns:
        The commit, from the Hub or, where it cannot be reached, from a model's copy in the cache.

    Raises:
        UserError: no such repository or revision, gated, or neither reachable nor in the cache.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    given = f"{option}={name}"
    if constants.HF_HUB_OFFLINE:
        return _cached_or_refuse(name, revision, kind, given, offline, "HF_HUB_OFFLINE is set")
    try:
        info = HfApi().repo_info(
            name, revision=revision, repo_type=kind, timeout=TIMEOUT, files_metadata=files is not None
        )
        if getattr(info, "gated", False):
            HfApi().auth_check(name, repo_type=kind)
    except GatedRepoError:
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise UserError(f"{given}: gated; ask for access at {page}, then run `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(
            f"{option.rsplit('.')[0]}.revision={revision}: {name} has no such revision on the Hub"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{given}: no such folder here and no such {kind} on the Hub (or it is private: `hf auth login`); "
            f"offline: {offline}"
        ) from None
    except Exception as error:  # whichever HTTP library huggingface_hub brings has its own
        return _cached_or_refuse(name, revision, kind, given, offline, one_line(error))
    if files is not None:
        _announce(name, info, files, kind)
    return info.sha


def _announce(name: str, info, patterns: tuple[str, ...], kind: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    def is_cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, revision=info.sha, repo_type=kind), str)

    wanted = [file for file in info.siblings if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)]
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


def _cached_or_refuse(name: str, revision: str, kind: str, given: str, offline: str, reason: str) -> str | None:
    """A Hub that does not answer: the commit of a copy in the cache, or one line that says what works offline."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    reference, commit = folder / "refs" / revision, None
    if reference.exists():
        commit = reference.read_text().strip()
    elif (folder / "snapshots" / revision).is_dir():
        commit = revision
    elif revision == "main" and (folder / "snapshots").is_dir():
        # What was loaded at a commit leaves no reference behind: the copy that came last is the one meant
        copies = sorted((folder / "snapshots").iterdir(), key=lambda copy: copy.stat().st_mtime)
        commit = copies[-1].name if copies else None
    if commit is None or kind == "dataset":
        raise UserError(
            f"{given}: not a folder here, and the Hub at {constants.ENDPOINT} cannot be reached ({reason}); "
            f"offline: {offline}"
        )
    log.info("The Hub cannot be reached (%s): %s comes from the cache, commit %s", reason, name, commit[:12])
    return commit
