"""From a name to a language model with its tokenizer, on a device, in a number format, ready to be measured.

Weights come from safetensors files only, and no code of a repository is ever run. Knows nothing of text or experiments.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from neurexp.errors import UserError, one_line
from neurexp.kernels import whole_precision
from neurexp.models.fast import difference_from_eager
from neurexp.models.places import Place, fetched, locate_parts
from neurexp.models.sites import Family, family_of

log = logging.getLogger(__name__)

# Largest ‖fast − eager‖ / ‖eager‖: rounding of each number format
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
NOT_COMPUTED = ("_name_or_path", "transformers_version", "dtype", "architectures")  # in a config, but not in a forward
SAFE = {"trust_remote_code": False}  # said each time: left unset, transformers asks on the terminal

# transformers sets PyTorch's default dtype while it loads, and random weights come from the process's one generator:
# two loads at once would get each other's format or numbers
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, its tokenizer, and where both came from."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str  # the commit on the Hub; for a local folder its path
    weights: str  # "pretrained" or "random"
    token_counts: np.ndarray | None = None  # [vocabulary] in the text that the tokenizer's model was trained on
    fast: bool = False  # the fast forward was asked for, and agrees with the eager one

    @property
    def family(self) -> Family:
        """Where this architecture keeps its neurons, and whether it expects a BOS."""
        return family_of(self.network.config.model_type)

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return self.network.config.num_hidden_layers

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over config and parameters as they were when it was first asked for."""
        return hash_of_weights(self.network)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.network.device


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
) -> LanguageModel:
    """Loads a causal language model for measuring: evaluation mode, no gradients.

    Any number of threads may call it: one of them loads, the others wait for it.

    Args:
        name: `mini` (ships with neurexp), a local folder, or a Hub id.
        revision: branch, tag or commit on the Hub; the commit it stands for is in the result.
        tokenizer: another tokenizer than the model's: `mini`, a folder, or a Hub id.
        weights: `pretrained`, or `random`: the same architecture, freshly initialised from `seed`.
        architecture: `model_type` and dimensions; with `weights="random"` nothing of the model is then downloaded.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `float32`, `bfloat16` or `float16`.
        seed: of random weights.
        fast: verify that the fast forward (`models.fast`) agrees with transformers' own; the network stays as it is.

    Raises:
        UserError: not there, not reachable, gated, of an unknown family, or damaged.
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
        return _load(name, revision, tokenizer, weights, architecture, target, getattr(torch, dtype), seed, fast)


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
) -> LanguageModel:
    """`load_model`, of arguments that were checked."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)  # what it logs of a load, we say in one line
    place, speech = locate_parts(name, revision, tokenizer, weights, architecture is not None)
    if place is None:
        fields = dict(architecture or {})
        config = _guarded(name, lambda: AutoConfig.for_model(fields.pop("model_type"), **fields), "architecture")
    else:
        folder = fetched(place, f"model.name={name}")
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
        assert place is not None
        identity = place.identity
        network = _load_weights(name, place, number_format)
    spoken = tokenizer or name
    speech_folder = fetched(speech, f"model.{'tokenizer' if tokenizer else 'name'}={spoken}")
    encoder = _guarded(spoken, lambda: AutoTokenizer.from_pretrained(speech_folder, **SAFE), "tokenizer")
    if len(encoder) < 2:  # what transformers makes of a folder without tokenizer files
        raise UserError(
            f"model.tokenizer={spoken}: no tokenizer files there; give model.tokenizer=FOLDER, an id, or mini"
        )
    if len(encoder) > network.config.vocab_size:
        raise UserError(
            f"model.tokenizer={spoken}: it has {len(encoder)} tokens, but {name} knows {network.config.vocab_size}"
        )
    network.eval().requires_grad_(False).to(target)  # type: ignore[arg-type]
    agrees = fast and _fast_agrees(network)
    return LanguageModel(network, encoder, name, identity, weights, _token_counts(speech, len(encoder)), agrees)


def _fast_agrees(network: PreTrainedModel) -> bool:
    with whole_precision():
        difference = difference_from_eager(network)
    if difference is None:
        return False
    if not difference <= AGREEMENT[network.dtype]:
        log.warning("The fast forward differs from transformers' own by %.1e: not used (model.fast=false)", difference)
        return False
    return True


def _token_counts(place: Place, vocabulary: int) -> np.ndarray | None:
    file = Path(place.path) / "token_counts.safetensors"
    if not file.is_file():
        return None
    try:
        counts = load_file(file)["counts"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"model.tokenizer={place.path}: {file.name} holds no counts; take it away") from error
    return counts if counts.shape == (vocabulary,) else None


def _load_weights(name: str, place: Place, dtype: torch.dtype) -> PreTrainedModel:
    folder = Path(place.path)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise UserError(f"model.name={name}: no .safetensors file in {folder}; neurexp loads no other weight format")
    network, report = _guarded(
        name,
        lambda: AutoModelForCausalLM.from_pretrained(
            place.path,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **SAFE,
        ),
    )
    if report["mismatched_keys"]:
        raise UserError(f"model.name={name}: its weights have other shapes than its config says; fetch it again")
    if report["missing_keys"]:
        # transformers would fill them with random numbers and go on
        absent = sorted(report["missing_keys"])
        raise UserError(f"model.name={name}: its weight files lack {len(absent)} tensors, {absent[0]} the first")
    return network


def _guarded(name: str, load: Callable[[], Any], what: str = "name") -> Any:
    """Runs one of transformers' loaders; what it raises for a damaged or incomplete folder becomes one line."""
    try:
        return load()
    except SafetensorError as error:
        raise UserError(f"model.{what}={name}: a weight file is damaged ({one_line(error)}); fetch it again") from error
    except Exception as error:  # a damaged folder raises whatever reads it first
        remote = name != "mini" and not Path(name).expanduser().is_dir()
        done = f"loaded from {'the Hub' if remote else 'this folder'}" if what != "architecture" else "built"
        raise UserError(f"model.{what}={name}: cannot be {done} ({one_line(error)})") from error
