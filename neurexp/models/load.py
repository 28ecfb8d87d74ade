"""Loading: from a name to a language model with its tokenizer, on a device, in a number format.

Weights come from safetensors and GGUF files only, and no code of a repository is ever run. Knows nothing of text or
experiments.
"""

import hashlib
import json
import logging
import operator
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from neurexp.errors import UserError
from neurexp.models import contents, gguf_file
from neurexp.models.attention import attention_of, check_attention, check_it_runs
from neurexp.models.families import FAMILIES, Family
from neurexp.models.fast import difference_from_eager
from neurexp.models.kernels import whole_precision
from neurexp.models.locations import download, locate_parts
from neurexp.models.own_tokenizer import embedding_rows, load_tokenizer, token_counts, warn_if_of_another_model
from neurexp.models.reading import SAFE, guarded, source_of
from neurexp.models.sites import blocks_of, family_of, family_with, unknown_architecture, use_family
from neurexp.models.spread import at_hand, device_of, is_spread, loading_options
from neurexp.models.weights import check_unexpected, load_weights
from neurexp.text.tokenizer import added_tokens, first_tokens
from neurexp.text.vocabulary import vocabulary_size

log = logging.getLogger(__name__)

# Largest accepted ‖fast − eager‖ / ‖eager‖: the rounding of each number format
AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
# In a config, but not in a forward
NOT_COMPUTED = ("_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "architectures")

# transformers sets PyTorch's default dtype while it loads, and random weights use the process's one generator. Two
# loads at the same time would mix up formats or numbers
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, its tokenizer, and the origin of both."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # of config and weights; that of the fallback if they are from there
    revision: str  # the commit on the Hub; else the path, or the package and the file
    weights: str  # "pretrained" or "random"
    token_counts: np.ndarray | None = None  # [vocabulary] in the text that the tokenizer's model was trained on
    fast: bool = False  # the fast forward is wanted, and agrees with the eager one
    begins_with_bos: bool = False  # whether a sequence begins with `text.tokenizer.first_tokens`
    tokenizer_name: str | None = None  # as `name`, of the tokenizer

    @property
    def family(self) -> Family:
        """The sites of this architecture."""
        return family_of(self.network)

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(blocks_of(self.network))

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over config and parameters, computed on first use."""
        return hash_of_weights(self.network)

    @property
    def attention(self) -> str:
        """The attention implementation of transformers' own forward."""
        return attention_of(self.network)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return device_of(self.network)

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


def hash_of_weights(network: PreTrainedModel) -> str:
    """SHA-256 over the config and every parameter's name and bytes: equal for models that compute the same."""
    config = {name: value for name, value in network.config.to_dict().items() if name not in NOT_COMPUTED}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        with at_hand(network.get_submodule(name.rpartition(".")[0])):
            tensor = tensor if tensor.device.type != "meta" else operator.attrgetter(name)(network)
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def positions_of(network: PreTrainedModel) -> int | None:
    """The largest number of tokens in a sequence of the model; None if its config does not say."""
    return getattr(network.config, "max_position_embeddings", None)


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
    fallback: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    fast: bool = False,
    bos: bool | None = None,
    attention: str | None = None,
    blocks: str | None = None,
    sites: Mapping[str, str] | None = None,
    device_map: str | None = None,
    max_memory: Mapping[Any, Any] | None = None,
) -> LanguageModel:
    """Loads a causal language model for measuring: evaluation mode, no gradients.

    Any number of threads may call it; one loads at a time.

    Args:
        name: `mini` (ships with neurexp), a local folder, a GGUF file, `PACKAGE:FILE.gguf` of an installed package, or
            a Hub id. The weights of a GGUF file are dequantised to `dtype`.
        revision: branch, tag or commit on the Hub; the result has the resolved commit.
        tokenizer: another tokenizer than the model's: `mini`, a folder, or a Hub id.
        weights: `pretrained`, or `random`: the same architecture, freshly initialised from `seed`.
        architecture: `model_type` and dimensions; with `weights="random"` nothing of the model is then downloaded.
        fallback: what takes the place of `name` where the Hub cannot be reached and has left no copy: as `name`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `float32`, `bfloat16` or `float16`.
        seed: of random weights.
        fast: verify that the fast forward (`models.fast`) agrees with transformers' own; the network stays as it is.
        bos: whether sequences begin with BOS; None: if the tokenizer by itself puts a special token before a text.
        attention: which of transformers' attention implementations to compute with (`eager`, `sdpa`, …), without the
            fast forward; None: transformers' own choice.
        blocks: the path of the list of blocks in the model, for an architecture that neurexp does not know.
        sites: name → path of a module in a block, likewise, or beside the known ones (`models.sites.family_with`).
        device_map: how a model that is larger than one device is spread over all GPUs, the CPU's memory and the disk:
            `auto`, `balanced`, `balanced_low_0` or `sequential`, as accelerate has them; None: one device. Such a model
            has no fast forward, and one thread at a time may use it.
        max_memory: how much each device may take (`models.spread.loading_options`).

    Raises:
        UserError: the model does not exist, cannot be reached, is gated, damaged, or of an unknown family; or it is an
            adapter, has quantised weights, asks for code, or has weights that the architecture does not use; or its
            architecture or this machine has no such `attention`.
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
    if max_memory is not None and device_map is None:
        raise UserError(f"model.max_memory={max_memory}: is for a model that is spread; give model.device_map=auto too")
    with _one_at_a_time:
        return _load(
            name,
            revision,
            tokenizer,
            weights,
            architecture,
            fallback,
            target,
            getattr(torch, dtype),
            seed,
            fast,
            bos,
            attention,
            blocks,
            sites,
            {} if device_map is None else loading_options(device_map, max_memory, target),
        )


def _load(
    name: str,
    revision: str,
    tokenizer: str | None,
    weights: str,
    architecture: dict[str, Any] | None,
    fallback: str | None,
    target: torch.device,
    number_format: torch.dtype,
    seed: int,
    fast: bool,
    bos: bool | None,
    attention: str | None,
    blocks: str | None,
    sites: Mapping[str, str] | None,
    spread: dict[str, Any],
) -> LanguageModel:
    """`load_model` with checked arguments."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)  # our own line replaces its log
    has_architecture = architecture is not None
    location, tokenizer_location = locate_parts(name, revision, tokenizer, weights, has_architecture, fallback)
    used = location or tokenizer_location
    if used.in_place_of is not None:
        what = "tokenizer is that" if location is None else "weights are those"
        if location is not None and weights == "random":
            what = "config and tokenizer are those"
        log.info("%s is not in reach: the %s of %s", used.in_place_of, what, used.identity)
    name = name if location is None else location.name
    if location is None:
        fields = dict(architecture or {})
        config = guarded(name, lambda: AutoConfig.for_model(fields.pop("model_type"), **fields), "architecture")
    elif location.is_gguf:
        gguf_file.read_header(f"model.name={name}", Path(location.path))  # before what takes long
        with source_of(location) as source:
            config = guarded(name, lambda: AutoConfig.from_pretrained(**source))
    else:
        given = f"model.name={name}"
        raw = contents.read_json(location.file("config.json", given)) if "config.json" in location.names else {}
        contents.check_config(given, raw, list(FAMILIES))  # before the weights are downloaded
        _check_architecture(raw.get("model_type"), bool(raw.get("is_decoder")))
        if weights != "random":
            contents.check_weights(given, location.names)
        folder = download(location, given)
        config = guarded(name, lambda: AutoConfig.from_pretrained(folder, **SAFE))
    _check_architecture(config.model_type, getattr(config, "is_decoder", False))

    options: dict[str, Any] = {"dtype": number_format}
    if spread and (weights == "random" or (location is not None and location.is_gguf)):
        what = "random weights" if weights == "random" else "a GGUF file"
        raise UserError(f"model.device_map={spread['device_map']}: cannot spread {what}; leave it out")
    if attention is not None:
        check_attention(attention, config, target, number_format)
        options["attn_implementation"] = attention
    if weights == "random":
        identity = f"random weights of seed {seed}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = options | {"dtype": torch.float32}
            built = guarded(name, lambda: AutoModelForCausalLM.from_config(config, **drawn), "architecture")
        network, unused = built.to(number_format), []
    else:
        assert location is not None
        identity = location.identity
        network, unused = load_weights(name, location, config, options | spread)
    network.eval()  # before a forward that may look for the sites
    if blocks is not None or sites:
        use_family(network, family_with(network, blocks, sites or {}))
    check_unexpected(f"model.name={name}", unused, network)
    tokenizer_name = tokenizer_location.name
    download(tokenizer_location, f"model.{'tokenizer' if tokenizer else 'name'}={tokenizer_name}")
    loaded = load_tokenizer(tokenizer_name, tokenizer_location)
    warn_if_of_another_model(tokenizer_name, loaded, network)
    begins_with_bos = bool(added_tokens(loaded)[0]) if bos is None else bos
    if begins_with_bos:
        first_tokens(loaded)
    network.requires_grad_(False)
    if not spread:
        network.to(target)  # type: ignore[arg-type]
    if attention is not None:
        check_it_runs(attention, network)
    agrees = fast and attention is None and not is_spread(network) and _fast_agrees(network)
    counts = token_counts(tokenizer_location, vocabulary_size(loaded))
    return LanguageModel(network, loaded, name, identity, weights, counts, agrees, begins_with_bos, tokenizer_name)


def _check_architecture(model_type: str | None, is_decoder: bool) -> None:
    """Refuses an architecture that is neither in neurexp's table nor one of transformers' causal language models.

    An encoder such as BERT is one of these only if its config says `is_decoder`. Of the others the structure decides,
    once the model is loaded.
    """
    if model_type in FAMILIES or model_type is None:
        return
    if model_type in CONFIG_MAPPING:
        kind = CONFIG_MAPPING[model_type]
        is_encoder = kind in AutoModelForMaskedLM._model_mapping and not is_decoder
        if kind in AutoModelForCausalLM._model_mapping and not is_encoder:
            return
    raise unknown_architecture(model_type)


def _fast_agrees(network: PreTrainedModel) -> bool:
    with whole_precision():
        difference = difference_from_eager(network)
    if difference is None:
        return False
    if not difference <= AGREEMENT[network.dtype]:
        log.warning("The fast forward differs from transformers' own by %.1e: not used (model.fast=false)", difference)
        return False
    return True
