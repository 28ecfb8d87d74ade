"""A model's weights: read from safetensors or a GGUF file, and refused where they do not fill the model as saved.

Knows nothing of tokenizers, nor of how a model is found.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from neurexp.errors import UserError
from neurexp.models import contents, gguf_file
from neurexp.models.locations import Location
from neurexp.models.reading import SAFE, guarded, source_of
from neurexp.models.sites import family_of

log = logging.getLogger(__name__)

# Constants that older versions of transformers saved with the weights
BUFFER = re.compile(r"\.(attn|attention|self_attn)(\.attention)?\.(bias|masked_bias)$|\.inv_freq$|\.masked_bias$")


def load_weights(
    name: str, location: Location, config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """The network with the weights of `location`, and the names of weights that it does not use.

    Args:
        name: of the model, for messages.
        location: whose files are on this machine.
        config: of the model.
        options: more of `from_pretrained`'s arguments, `dtype` among them.

    Raises:
        UserError: the weights are damaged, quantised, of two saves, or do not fill the model.
    """
    folder, given = Path(location.path), f"model.name={name}"
    if location.is_gguf:
        return _load_gguf(name, location, config, options)
    used = contents.files_used(folder)
    contents.log_unused(folder, location.names, used)
    guarded(name, lambda: _check_tensors(given, [folder / file for file in used if (folder / file).is_file()]))
    network, report = guarded(
        name,
        lambda: AutoModelForCausalLM.from_pretrained(
            location.path,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **SAFE,
            **options,
        ),
    )
    _check_report(given, report)
    return network, sorted(report["unexpected_keys"])


def _load_gguf(
    name: str, location: Location, config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    file, given = Path(location.path), f"model.name={name}"
    header = gguf_file.read_header(given, file)
    kind, part = gguf_file.quantisation(header), f" of {location.package}" if location.package else ""
    dtype = str(options["dtype"]).removeprefix("torch.")
    log.info("Weights: %s%s (%s, GGUF), dequantised to %s", file.name, part, kind, dtype)
    with source_of(location) as source:
        network, report = guarded(name, lambda: gguf_file.load_weights(given, header, config, source, dict(options)))
    _check_report(given, report)
    return network, sorted(report["unexpected_keys"])


def _check_report(given: str, report: dict[str, Any]) -> None:
    """Refuses weights that do not fill the model, by transformers' report of its loading."""
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


def check_unexpected(given: str, names: list[str], network: PreTrainedModel) -> None:
    """Refuses weights inside the blocks that the architecture does not use: they would change the activations.

    Raises:
        UserError: there are such weights among `names`. Others are logged.
    """
    names = [name for name in names if not BUFFER.search(name)]
    blocks = re.compile(rf"(^|\.){re.escape(family_of(network).blocks)}\.\d+\.")
    within = [name for name in names if blocks.search(name)]
    if within:
        raise UserError(
            f"{given}: its weight files hold {len(within)} tensors that its config.json has no place for, {within[0]} "
            "the first; give the config.json that they were saved with"
        )
    if names:
        log.warning("Weights that the model does not use: %s", contents.first_few(names))
