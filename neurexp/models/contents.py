"""Checks of a model's folder or repository before anything is loaded.

Whatever would make the measured model differ from the saved one is refused: an adapter, quantised weights, code of the
repository. Files that are merely unused, such as a second set of weights, are logged. Imports nothing heavy.
"""

import fnmatch
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neurexp.errors import UserError

log = logging.getLogger(__name__)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # transformers takes the first that exists
ADAPTER = "adapter_config.json"
ADAPTERS = (ADAPTER, "adapter_model.*", "adapters.safetensors", "pytorch_adapter.bin", "pytorch_lora_weights.*")
WEIGHTS = (
    "*.safetensors", "pytorch_model*.bin", "*.gguf", "*.ggml", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx",
    "consolidated*", "model*.bin", "model*.pt", "*.npz", "rust_model.ot",
)  # fmt: skip
COUNTS = "token_counts.safetensors"  # no weights: token counts of the tokenizer's training text
GGUF_PACKAGES = "gguf accelerate"  # that transformers reads a GGUF file with
SHOWN = 4  # files named in one message
DEPTH = 2  # depth of subfolders that are searched
MOST = 5000  # files that are looked at


def list_files(folder: Path) -> list[str]:
    """The files in a folder and the folders below it, as paths relative to it, in alphabetical order."""
    found: list[str] = []

    def look(where: Path, depth: int) -> None:
        with suppress(OSError):
            for one in sorted(where.iterdir()):
                if len(found) < MOST and not one.name.startswith("."):
                    if one.is_file():
                        found.append(one.relative_to(folder).as_posix())
                    elif depth < DEPTH:
                        look(one, depth + 1)

    look(folder, 0)
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file has none, or does not exist."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def adapter_files(names: Iterable[str]) -> list[str]:
    """The files of an adapter in the model's own folder."""
    return [name for name in names if "/" not in name and _is_any(name, ADAPTERS)]


def refuse_adapter(given: str, found: str, config: dict[str, Any]) -> None:
    """Raises UserError: `given` holds an adapter. `found` is a file of it, `config` its `adapter_config.json`."""
    kind = config.get("peft_type") or config.get("fine_tune_type") or "of an unnamed kind"
    base = config.get("base_model_name_or_path") or config.get("model_name") or config.get("model")
    raise UserError(
        f"{given}: {found} is of an adapter ({kind}) of {base or 'a base model'}, which neurexp does not apply; merge "
        "the two (in peft: merge_and_unload, then save_pretrained) and give that folder, or give the base model alone"
    )


def check_weights(given: str, names: Sequence[str]) -> None:
    """Checks that there are safetensors weights in the files that transformers reads.

    Raises:
        UserError: there are none; the message names weights of other formats.
    """
    own = [name for name in names if "/" not in name]
    if SINGLE in own or INDEX in own:
        return
    others = [name for name in names if _is_any(name.rpartition("/")[2], WEIGHTS) and not name.endswith(".index.json")]
    shards = [name for name in own if fnmatch.fnmatch(name, "model-*-of-*.safetensors")]
    if shards:
        raise UserError(f"{given}: it has {shards[0]}, but no {INDEX} that lists all such files; fetch it again")
    beside = f" (there: {first_few(others)})" if others else ""
    missing = f"{SINGLE} or {INDEX}" if any(name.endswith(".safetensors") for name in own) else ".safetensors file"
    raise UserError(
        f"{given}: it has no {missing}{beside}; neurexp loads no other weights: load it with transformers, whose "
        "save_pretrained writes them"
    )


def check_config(given: str, config: dict[str, Any], known: Sequence[str]) -> None:
    """Checks that the model of `config.json` can be measured as saved. Logs what is ignored.

    Raises:
        UserError: the weights are quantised, or the architecture is not `known` and comes as code.
    """
    kind = config.get("model_type")
    code = config.get("auto_map")
    if code and kind not in known:
        raise UserError(
            f"{given}: its architecture {kind!r} comes as code in the repository (auto_map), which neurexp never runs; "
            f"known are {', '.join(known)}; give a model of one of them"
        )
    for part in (config, *(inner for inner in config.values() if isinstance(inner, dict))):  # such as text_config
        for key in ("quantization_config", "compression_config"):
            if part.get(key):
                method = part[key].get("quant_method") if isinstance(part[key], dict) else None
                raise UserError(
                    f"{given}: its weights are quantised ({method or key}), which neurexp does not load; give the "
                    "model that it was made from, or dequantize() it in transformers, save_pretrained, and give that "
                    "folder"
                )
    if code:
        log.warning(
            "config.json names code of the repository (%s), which is not run: transformers' own %s is measured",
            first_few(sorted({str(one) for one in code.values()})) if isinstance(code, dict) else code,
            kind,
        )


def check_gguf(given: str, file: Path) -> None:
    """Checks that `file` begins as a GGUF file does, and that the packages that read one are installed.

    Raises:
        UserError: it is no GGUF file, or a package is missing; the message has the pip command.
    """
    try:
        with file.open("rb") as opened:
            begins = opened.read(4)
    except OSError as error:
        raise UserError(f"{given}: cannot be read ({error.strerror}); give another file") from error
    if begins != b"GGUF":
        raise UserError(f"{given}: is no GGUF file, or a damaged one (it begins with {begins!r}); fetch it again")
    missing = [name for name in GGUF_PACKAGES.split() if find_spec(name) is None]
    if missing:
        raise UserError(f"{given}: reading a GGUF file needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def log_unused(folder: Path, names: Sequence[str], used: Sequence[str]) -> None:
    """Logs which of the files `names` look like weights or an adapter but are not `used`, and which are newer.

    A model that was saved again in another format may lie beside an older copy, which transformers may prefer.
    """
    unused = [
        name
        for name in names
        if name not in (*used, COUNTS)
        and _is_any(name.rpartition("/")[2], (*WEIGHTS, ADAPTER))
        and not name.endswith(".py")
    ]
    if unused:
        latest = max((_changed(folder / name) for name in used), default=0.0)
        newer = [name for name in unused if _changed(folder / name) > latest + 1]
        log.info("Weights: %s; not used: %s", first_few(used), first_few(unused))
        if newer:
            log.warning("Weights: %s was written after those that are used", first_few(newer))


def _changed(file: Path) -> float:
    """When a file was last written, in seconds; 0 if it is not on this machine."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def check_tokenizer(given: str, folder: Path) -> None:
    """Checks that a folder's tokenizer can be read with the installed packages.

    Raises:
        UserError: it is a file of SentencePiece or tiktoken, and that package is missing.
    """
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    models = sorted(name for name in names if name.endswith(".model"))
    if not models or "tokenizer.json" in names or any(_is_any(name, ("vocab.*", "merges.txt")) for name in names):
        return
    with (folder / models[0]).open("rb") as file:
        # SentencePiece's files are protocol buffers whose first field, a piece, has the tag 0x0A; tiktoken's are text
        package = "sentencepiece" if file.read(1) == b"\n" else "tiktoken"
    if find_spec(package) is None:
        raise UserError(
            f"{given}: its tokenizer is {models[0]} alone, and reading that needs {package}: pip install {package}, or "
            "give model.tokenizer= a folder or an id with a tokenizer.json"
        )


def files_used(folder: Path) -> list[str]:
    """The weight files that transformers reads from a folder: the single one, else those that the index lists."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    listed = read_json(folder / INDEX).get("weight_map")
    return sorted({str(file) for file in listed.values()}) if isinstance(listed, dict) else []


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def first_few(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
