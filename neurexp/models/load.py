"""Loading: from a name to a language model with its tokenizer, on a device, in a number format.

Weights come from safetensors files only, and no code of a repository is ever run. Knows nothing of text or experiments.
"""

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from neurexp.errors import UserError, one_line
from neurexp.models import contents
from neurexp.models.fast import difference_from_eager
from neurexp.models.kernels import whole_precision
from neurexp.models.locations import Location, download, locate_parts
from neurexp.models.sites import FAMILIES, Family, family_of
from neurexp.text.tokenizer import added_tokens, first_tokens
from neurexp.text.vocabulary import vocabulary_size

log = logging.getLogger(__name__)

# Largest accepted ‖fast − eager‖ / ‖eager‖: the rounding of each number format
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
NOT_COMPUTED = ("_name_or_path", "transformers_version", "dtype", "architectures")  # in a config, but not in a forward
FEWEST_USED = 0.9  # of a model's embeddings that its tokenizer uses; the rest is padding to a round number
# Constants that older versions of transformers saved with the weights
BUFFER = re.compile(r"\.(attn|attention|self_attn)(\.attention)?\.(bias|masked_bias)$|\.inv_freq$|\.masked_bias$")
SAFE = {"trust_remote_code": False}  # always given: otherwise transformers asks on the terminal

# transformers sets PyTorch's default dtype while it loads, and random weights use the process's one generator. Two
# loads at the same time would mix up formats or numbers
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, its tokenizer, and the origin of both."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str  # the commit on the Hub; for a local folder its path
    weights: str  # "pretrained" or "random"
    token_counts: np.ndarray | None = None  # [vocabulary] in the text that the tokenizer's model was trained on
    fast: bool = False  # the fast forward is wanted, and agrees with the eager one
    begins_with_bos: bool = False  # whether a sequence begins with `text.tokenizer.first_tokens`

    @property
    def family(self) -> Family:
        """The sites of this architecture."""
        return family_of(self.network.config.model_type)

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return self.network.config.num_hidden_layers

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over config and parameters, computed on first use."""
        return hash_of_weights(self.network)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.network.device

    def check_ids(self, ids: np.ndarray) -> None:
        """Checks that the model has an embedding for each token id in `ids`, of any shape.

        Raises:
            UserError: an id has no embedding; the message names it.
        """
        rows = embedding_rows(self.network)
        beyond = ids[ids >= rows]
        if beyond.size:
            token = self.tokenizer.convert_ids_to_tokens(int(beyond[0]))
            raise UserError(
                f"model.tokenizer: its token {token!r} (id {beyond[0]}) occurs, but {self.name} has an embedding for "
                f"ids below {rows} only ({beyond.size} of {ids.size} tokens are beyond); give model.tokenizer= the one "
                "that the model was trained with"
            )


def embedding_rows(network: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    return network.get_input_embeddings().weight.shape[0]  # type: ignore[return-value, index]


def hash_of_weights(network: PreTrainedModel) -> str:
    """SHA-256 over the config and every parameter's name and bytes: equal for models that compute the same."""
    config = {name: value for name, value in network.config.to_dict().items() if name not in NOT_COMPUTED}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N` → the device.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"device={name}: no such device; give auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: not supported; give auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: PyTorch {torch.__version__} sees no such GPU here; give device=cpu or auto")
    return device


def load_model(
    name: str = "mini",
    *,
    revision: str = "main",
    tokenizer: str | None = None,
    weights: str = "pretrained",
    architecture: dict[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    fast: bool = False,
    bos: bool | None = None,
) -> LanguageModel:
    """Loads a causal language model for measuring: evaluation mode, no gradients.

    Any number of threads may call it; one loads at a time.

    Args:
        name: `mini` (ships with neurexp), a local folder, or a Hub id.
        revision: branch, tag or commit on the Hub; the result has the resolved commit.
        tokenizer: another tokenizer than the model's: `mini`, a folder, or a Hub id.
        weights: `pretrained`, or `random`: the same architecture, freshly initialised from `seed`.
        architecture: `model_type` and dimensions; with `weights="random"` nothing of the model is then downloaded.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `float32`, `bfloat16` or `float16`.
        seed: of random weights.
        fast: verify that the fast forward (`models.fast`) agrees with transformers' own; the network stays as it is.
        bos: whether sequences begin with BOS; None: if the tokenizer by itself puts a special token before a text.

    Raises:
        UserError: the model does not exist, cannot be reached, is gated, damaged, or of an unknown family; or it is an
            adapter, has quantised weights, asks for code, or has weights that the architecture does not use.
    """
    target = choose_device(device)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"device.dtype={dtype}: give float32, bfloat16 or float16")
    if weights not in ("pretrained", "random"):
        raise UserError(f"model.weights={weights}: give pretrained or random")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise UserError(f"run.seed={seed}: give a whole number from 0 to {2**63 - 1}")
    if not isinstance(architecture, dict | None):
        raise UserError(f"model.architecture={architecture}: give names and values, model_type among them")
    for option, given in (("model.name", name), ("model.tokenizer", tokenizer or ""), ("model.revision", revision)):
        if not isinstance(given, str):
            raise UserError(f"{option}={given}: give text, as str(path) of a folder, and no {type(given).__name__}")
    with _one_at_a_time:
        return _load(name, revision, tokenizer, weights, architecture, target, getattr(torch, dtype), seed, fast, bos)


def _load(
    name: str,
    revision: str,
    tokenizer: str | None,
    weights: str,
    architecture: dict[str, Any] | None,
    target: torch.device,
    number_format: torch.dtype,
    seed: int,
    fast: bool,
    bos: bool | None,
) -> LanguageModel:
    """`load_model` with checked arguments."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)  # our own line replaces its log
    location, tokenizer_location = locate_parts(name, revision, tokenizer, weights, architecture is not None)
    if location is None:
        fields = dict(architecture or {})
        config = _guarded(name, lambda: AutoConfig.for_model(fields.pop("model_type"), **fields), "architecture")
    else:
        given = f"model.name={name}"
        raw = contents.read_json(location.file("config.json", given)) if "config.json" in location.names else {}
        contents.check_config(given, raw, list(FAMILIES))  # before the weights are downloaded
        if isinstance(raw.get("model_type"), str):
            family_of(raw["model_type"])
        if weights != "random":
            contents.check_weights(given, location.names)
        folder = download(location, given)
        config = _guarded(name, lambda: AutoConfig.from_pretrained(folder, **SAFE))
    family_of(config.model_type)

    if weights == "random":
        identity = f"random weights of seed {seed}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = _guarded(
                name, lambda: AutoModelForCausalLM.from_config(config, dtype=torch.float32), "architecture"
            )
        network = built.to(number_format)
    else:
        assert location is not None
        identity = location.identity
        network = _load_weights(name, location, number_format)
    tokenizer_name = tokenizer or name
    tokenizer_folder = download(tokenizer_location, f"model.{'tokenizer' if tokenizer else 'name'}={tokenizer_name}")
    contents.check_tokenizer(f"model.tokenizer={tokenizer_name}", Path(tokenizer_folder))
    loaded = _guarded(tokenizer_name, lambda: AutoTokenizer.from_pretrained(tokenizer_folder, **SAFE), "tokenizer")
    if len(loaded) < 2:  # transformers makes an empty tokenizer of a folder without files
        raise UserError(
            f"model.tokenizer={tokenizer_name}: no tokenizer files there; give model.tokenizer=FOLDER, an id, or mini"
        )
    _warn_if_of_another_model(tokenizer_name, loaded, network)
    begins_with_bos = bool(added_tokens(loaded)[0]) if bos is None else bos
    if begins_with_bos:
        first_tokens(loaded)
    network.eval().requires_grad_(False).to(target)  # type: ignore[arg-type]
    agrees = fast and _fast_agrees(network)
    counts = _token_counts(tokenizer_location, vocabulary_size(loaded))
    return LanguageModel(network, loaded, name, identity, weights, counts, agrees, begins_with_bos)


def _warn_if_of_another_model(
    tokenizer_name: str, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel
) -> None:
    """Warns if the number of tokens or the special tokens suggest that the tokenizer is another model's."""
    rows, size, config = embedding_rows(network), vocabulary_size(tokenizer), network.config
    odd = []
    if size > rows:
        beyond = sorted(index for index in tokenizer.get_vocab().values() if index >= rows)
        token = tokenizer.convert_ids_to_tokens(beyond[0])
        odd.append(f"{len(beyond)} of its tokens have no embedding ({token!r}, id {beyond[0]}, the first)")
    elif size < FEWEST_USED * rows:
        odd.append(f"it has ids below {size}, the model embeddings for {rows}")
    generation = getattr(network, "generation_config", None)
    for what in ("bos_token_id", "eos_token_id"):
        own, stated = getattr(tokenizer, what), set[int]()
        for source in (config, generation):
            value = getattr(source, what, None)
            stated |= set(value if isinstance(value, list) else [] if value is None else [value])
        if own is not None and stated and own not in stated:
            odd.append(f"its {what} is {own}, the config says {', '.join(map(str, sorted(stated)))}")
    if odd:
        log.warning("The tokenizer (%s) may be another model's: %s", tokenizer_name, "; ".join(odd))


def _fast_agrees(network: PreTrainedModel) -> bool:
    with whole_precision():
        difference = difference_from_eager(network)
    if difference is None:
        return False
    if not difference <= AGREEMENT[network.dtype]:
        log.warning("The fast forward differs from transformers' own by %.1e: not used (model.fast=false)", difference)
        return False
    return True


def _token_counts(location: Location, vocabulary: int) -> np.ndarray | None:
    file = Path(location.path) / contents.COUNTS
    if not file.is_file():
        return None
    try:
        counts = load_file(file)["counts"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"model.tokenizer={location.path}: {file.name} holds no counts; take it away") from error
    if counts.ndim != 1 or len(counts) > vocabulary:
        log.warning("%s is of another tokenizer: not used, frequencies are those of the text", file)
        return None
    return np.pad(counts, (0, vocabulary - len(counts)))  # tokens that were added later do not occur


def _load_weights(name: str, location: Location, dtype: torch.dtype) -> PreTrainedModel:
    folder, given = Path(location.path), f"model.name={name}"
    used = contents.files_used(folder)
    contents.log_unused(folder, location.names, used)
    _guarded(name, lambda: _check_tensors(given, [folder / file for file in used if (folder / file).is_file()]))
    network, report = _guarded(
        name,
        lambda: AutoModelForCausalLM.from_pretrained(
            location.path,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **SAFE,
        ),
    )
    if report["mismatched_keys"]:
        raise UserError(f"{given}: its weights have other shapes than its config says; fetch it again")
    if report["missing_keys"]:
        # transformers would fill them with random numbers
        absent = sorted(report["missing_keys"])
        there = sorted(report["unexpected_keys"])
        beside = f"; they hold {len(there)} others, {there[0]} the first" if there else ""
        raise UserError(
            f"{given}: its weight files lack {len(absent)} tensors, {absent[0]} the first{beside}; give the "
            "config.json that they were saved with, or fetch it again"
        )
    _check_unexpected(given, sorted(report["unexpected_keys"]), network)
    return network


def _check_tensors(given: str, files: list[Path]) -> None:
    """Refuses what transformers loads silently: a tensor in two files, and quantised numbers."""
    seen: dict[str, Path] = {}
    for file in files:
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                if name in seen:
                    raise UserError(
                        f"{given}: {name} is in {seen[name].name} and in {file.name}, which are of two saves; fetch it "
                        "again"
                    )
                seen[name] = file
                kind = tensors.get_slice(name).get_dtype()
                if not kind.startswith(("F", "BF")) and name.endswith((".weight", ".bias")) and not BUFFER.search(name):
                    raise UserError(
                        f"{given}: {name} in {file.name} holds {kind}, no floating-point numbers: quantised weights, "
                        "which neurexp does not load; give the model that it was made from"
                    )


def _check_unexpected(given: str, names: list[str], network: PreTrainedModel) -> None:
    """Refuses weights inside the blocks that the architecture does not use: they would change the activations."""
    names = [name for name in names if not BUFFER.search(name)]
    blocks = re.compile(rf"(^|\.){re.escape(family_of(network.config.model_type).blocks)}\.\d+\.")
    within = [name for name in names if blocks.search(name)]
    if within:
        raise UserError(
            f"{given}: its weight files hold {len(within)} tensors that its config.json has no place for, {within[0]} "
            "the first; give the config.json that they were saved with"
        )
    if names:
        log.warning("Weights that the model does not use: %s", contents.first_few(names))


def _guarded(name: str, load: Callable[[], Any], what: str = "name") -> Any:
    """Runs one of transformers' loaders. Its errors about a damaged or incomplete folder become one line."""
    try:
        return load()
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"model.{what}={name}: a weight file is damaged ({one_line(error)}); fetch it again") from error
    except Exception as error:  # a damaged folder raises whatever reads it first
        remote = name != "mini" and not Path(name).expanduser().is_dir()
        done = f"loaded from {'the Hub' if remote else 'this folder'}" if what != "architecture" else "built"
        todo = "correct its values" if what == "architecture" else f"fetch it again, or give another model.{what}"
        raise UserError(f"model.{what}={name}: cannot be {done} ({one_line(error)}); {todo}") from error
