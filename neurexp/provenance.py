"""What a run must say about itself so that it can be repeated: versions, code, command. Knows no model and no text."""

import hashlib
import inspect
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

HIDDEN = "***"  # in the place of a password


def of_process() -> dict[str, Any]:
    """Package versions, Python and machine, the code, the command line and the folder that it was typed in.

    `git_diff` is what the checkout's package and configuration have that `git_commit` has not, as `git diff` says it.
    """
    folder = Path(__file__).resolve().parent.parent
    commit = _git(folder, "rev-parse", "HEAD") if (folder / ".git").exists() else None
    return {
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "git_commit": commit,
        "git_dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        "git_diff": _git(folder, "diff", "HEAD", "--", "neurexp/*.py", "conf") if commit else None,
        "code_hash": hash_of_code(),
        "command_line": without_secrets(shlex.join([Path(sys.executable).name, "-m", "neurexp", *sys.argv[1:]])),
        "working_folder": str(Path.cwd()),
    }


def of_arithmetic() -> dict[str, Any]:
    """What the last bits of a result hang on, beside the machine: PyTorch's threads and flags, and its environment."""
    import torch

    variables = re.compile("OMP_|MKL_|KMP_|ONEDNN_|DNNL_|CUBLAS_|ATEN_|CUDA_VISIBLE_DEVICES")
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "environment": {name: value for name, value in sorted(os.environ.items()) if variables.match(name)},
    }


@cache
def hash_of_code() -> str:
    """SHA-256 over the package's own modules: what was kept of a pass is another code's, once a line of it differs."""
    digest, package = hashlib.sha256(), Path(__file__).resolve().parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()


def hash_of_plugin(plugin: type) -> str | None:
    """SHA-256 over the modules outside this package that a class and its bases are written in; None where none is."""
    package = Path(__file__).resolve().parent
    classes = [one for one in plugin.__mro__ if one.__module__.split(".")[0] not in sys.stdlib_module_names]
    files = {Path(inspect.getfile(one)).resolve() for one in classes}
    outside = sorted(file for file in files if not file.is_relative_to(package))
    return hashlib.sha256(b"".join(file.read_bytes() for file in outside)).hexdigest() if outside else None


def without_secrets(text: str) -> str:
    """The text without the user and password of any address in it."""
    return re.sub(r"://[^/@\s]+@", f"://{HIDDEN}@", text)


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
