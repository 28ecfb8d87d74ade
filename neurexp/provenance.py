"""What a run must say about itself so that it can be repeated: versions, code, command. Knows no model and no text."""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "neurexp", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "mlflow", "hydra-core",
    "safetensors", "matplotlib",
)  # fmt: skip


def of_process() -> dict[str, Any]:
    """Package versions, Python and machine, the checkout's git commit and whether it was dirty, the command line."""
    folder = Path(__file__).resolve().parent.parent
    commit = _git(folder, "rev-parse", "HEAD") if (folder / ".git").exists() else None
    return {
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "git_commit": commit,
        "git_dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        "command_line": without_secrets(shlex.join([Path(sys.executable).name, "-m", "neurexp", *sys.argv[1:]])),
    }


@cache
def hash_of_code() -> str:
    """SHA-256 over the package's own modules: what was kept of a pass is another code's, once a line of it differs."""
    digest, package = hashlib.sha256(), Path(__file__).resolve().parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()


def without_secrets(text: str) -> str:
    """The text without the user and password of any address in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def hash_of_tokenizer(tokenizer) -> str:
    """SHA-256 of the tokenizer's whole definition, or of its vocabulary where it has no single file."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that runs without being installed
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
