"""Provenance: versions, code and command, with which a run can be repeated. Knows no model and no text."""

import hashlib
import os
import platform
import re
import shlex
import site
import subprocess
import sys
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurexp.errors import without_secrets

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "neurexp", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy", "mlflow", "hydra-core",
    "safetensors", "matplotlib",
)  # fmt: skip

ARITHMETIC = re.compile(
    "OMP_|MKL_|KMP_|ONEDNN_|DNNL_|CUBLAS_|ATEN_"
)  # environment variables that change the order of additions
# As the user set them. Libraries add their own in the middle of a sweep, too late to change anything
_ENVIRONMENT = {name: value for name, value in sorted(os.environ.items()) if ARITHMETIC.match(name)}

# The arguments of the command line that does the same as a call from Python, within that call
arguments_of_call: ContextVar[list[str] | None] = ContextVar("arguments_of_call", default=None)


def of_process() -> dict[str, Any]:
    """Package versions, Python and machine, the code, the command line and the folder in which it was typed.

    `git_diff` is the difference between `git_commit` and the checkout's package and configuration, for `git apply`.
    """
    folder = Path(__file__).resolve().parents[2]
    commit = _git(folder, "rev-parse", "HEAD") if (folder / ".git").exists() else None
    difference = _difference(folder) if commit else None
    called = arguments_of_call.get()
    arguments = sys.argv[1:] if called is None else called
    return {
        "versions": {name: version_of(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "git_commit": commit and commit.strip(),
        "git_dirty": bool(difference or _git(folder, "status", "--porcelain", "-uno")) if commit else None,
        "git_diff": difference,
        "code_hash": hash_of_code(),
        "command_line": without_secrets(shlex.join([Path(sys.executable).name, "-m", "neurexp", *arguments])),
        "working_folder": str(Path.cwd()),
    }


def of_arithmetic(device: "torch.device") -> dict[str, Any]:
    """What the last bits of a result depend on: the device, PyTorch's threads and flags, and the environment."""
    import torch

    of_device = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "threads": torch.get_num_threads(),
        "device_kind": f"{device.type} {of_device}",
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "environment": dict(_ENVIRONMENT),
    }


@cache
def hash_of_code() -> str:
    """SHA-256 over the package's own modules. A stored pass is used only by the code that made it."""
    digest, package = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()


def _source_of(plugin: type) -> str:
    """The source of a class and of its bases in a notebook, as far as it is known."""
    from inspect import getsource

    own = [one for one in plugin.__mro__ if one.__module__ == "__main__"]
    try:
        return "".join(map(getsource, own))
    except (OSError, TypeError):
        return repr(own)


def hash_of_plugin(plugin: type) -> str | None:
    """SHA-256 over the modules outside this package that a class comes from; None if there are none.

    These are its own module and those of its bases, other imported modules of their packages, and modules in the same
    folders.
    """
    roots = {one.__module__.split(".")[0] for one in plugin.__mro__} - {"neurexp", *sys.stdlib_module_names}
    if not roots:
        return None
    if "__main__" in roots and not hasattr(sys.modules["__main__"], "__file__"):  # a notebook: its cells are in no file
        return hashlib.sha256(_source_of(plugin).encode()).hexdigest()
    # Thousands of modules are loaded: links are resolved once for each folder, not for each file
    resolved = cache(os.path.realpath)
    loaded = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    files = {
        name: Path(resolved(os.path.dirname(file)), os.path.basename(file))  # noqa: PTH119, PTH120 (ten times as fast)
        for name, file in loaded.items()
        if file and file.endswith(".py")
    }
    own = {file for name, file in files.items() if name.split(".")[0] in roots}
    folders = {file.parent for file in own} - {Path(path).resolve() for path in site.getsitepackages()}
    chosen = own | {file for file in files.values() if file.parent in folders}
    package = Path(__file__).resolve().parents[1]
    outside = sorted(file for file in chosen if file.is_file() and not file.is_relative_to(package))
    return hashlib.sha256(b"".join(file.read_bytes() for file in outside)).hexdigest() if outside else None


def hash_of_tokenizer(tokenizer) -> str:
    """SHA-256 of the tokenizer's whole definition (of its vocabulary where it has no single file), and of which of its
    tokens are special: transformers keeps that in a file of its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, sorted(tokenizer.all_special_ids)]
    return hashlib.sha256(f"{text}{special}".encode()).hexdigest()


def version_of(name: str) -> str | None:
    """The version of an installed package; None for one that is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return None


def _difference(folder: Path) -> str:
    """The difference between the commit and the files, new files included."""
    where = ("--", "neurexp/*.py", "conf")
    new = (_git(folder, "ls-files", "-z", "--others", "--exclude-standard", *where) or "").split("\0")
    parts = [_git(folder, "diff", "HEAD", *where)]
    parts += [_git(folder, "diff", "--no-index", "--", os.devnull, file, fine=(0, 1)) for file in new if file]
    return without_secrets("".join(part or "" for part in parts))


def _git(folder: Path, *arguments: str, fine: tuple[int, ...] = (0,)) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode in fine else None
