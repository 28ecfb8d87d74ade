"""GGUF files, each of which holds a model's config, weights and tokenizer, as transformers reads them.

transformers reads a GGUF file by names that it knows, and leaves out the rest without a word. What would change the
activations is refused here. Knows nothing of how a model is found.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict, read_gguf_metadata

from neurexp.errors import UserError, one_line
from neurexp.models.contents import first_few

log = logging.getLogger(__name__)

ROTATION = "rope_"  # tensors that scale the rotary frequencies, which transformers does not read


@contextmanager
def alone(file: Path) -> Iterator[dict[str, str]]:
    """The arguments with which transformers reads `file`, and nothing that lies beside it (an adapter, a tokenizer)."""
    with TemporaryDirectory(prefix="neurexp-") as folder:
        (Path(folder) / "model.gguf").symlink_to(file)
        yield {"pretrained_model_name_or_path": folder, "gguf_file": "model.gguf"}


def read_header(given: str, file: Path) -> GgufHeader:
    """The file's tensors by name, shape and type, read without their numbers.

    Raises:
        UserError: the file is damaged, cut short, one part of several, or has tensors of a type that cannot be read.
    """
    try:
        metadata, _ = read_gguf_metadata(str(file))
        header = GgufHeader.from_file(str(file))
    except Exception as error:  # struct, numpy, Unicode and the reader itself have each their own
        raise UserError(
            f"{given}: cannot be read as a GGUF file ({one_line(error)}); fetch it again, or give another file"
        ) from error
    if (parts := metadata.get("split.count", 1)) > 1:
        raise UserError(
            f"{given}: is one of {parts} parts of a model; join them (llama-gguf-split --merge) and give that file"
        )
    if not header.tensors:
        raise UserError(f"{given}: holds no weights; give a GGUF file of a whole model")
    ends, size = header.data_start + max(one.offset + one.nbytes for one in header.tensors), file.stat().st_size
    if size < ends:
        raise UserError(f"{given}: is cut short: {size:,} of {ends:,} bytes are there; fetch it again")
    scaling = metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise UserError(
            f"{given}: its rotary positions are scaled ({scaling}), which transformers does not read from a GGUF file; "
            "give the model that it was made from"
        )
    return header


def quantisation(header: GgufHeader) -> str:
    """The number format that holds most of the weights, such as `Q4_1` or `F16`."""
    from gguf import GGMLQuantizationType

    numbers: Counter[int] = Counter()
    for one in header.tensors:
        numbers[one.ggml_type] += prod(one.shape)
    return GGMLQuantizationType(numbers.most_common(1)[0][0]).name


def load_weights(
    given: str, header: GgufHeader, config: PreTrainedConfig, source: dict[str, str], options: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The network with the file's weights, dequantised to `options["dtype"]`, and transformers' report on its keys.

    Args:
        given: the option and its value, for messages.
        header: of the file.
        config: of the model.
        source: as `alone` gives it.
        options: more of `from_pretrained`'s arguments.

    Raises:
        UserError: the file has weights that transformers leaves out.
    """
    with _without_bar():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **source,
            config=config,
            quantization_config=GgufConfig(dequantize=True),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    network, report = loaded
    # Its weights are plain numbers now. The entry would make the hash of the weights depend on the file's name
    with suppress(AttributeError):
        del network.config.quantization_config
    network.hf_quantizer, network.is_quantized = None, False
    if not report["mismatched_keys"] and not report["missing_keys"]:
        _check_all_used(given, header, network)
    return network, report


@contextmanager
def _without_bar() -> Iterator[None]:
    """Without transformers' own progress bar of this reader, which its option to switch bars off does not reach."""
    module: Any = modeling_gguf_pytorch_utils
    bar = getattr(module, "tqdm", None)
    module.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        module.tqdm = bar


def _check_all_used(given: str, header: GgufHeader, network: PreTrainedModel) -> None:
    """Refuses a file with more numbers than the model: transformers leaves out tensors that it has no name for."""
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight  # type: ignore[union-attr]
    constants = {name for name, tensor in _rotations(header).items() if bool((tensor == 1).all())}
    needed = [one for one in header.tensors if one.name not in constants and not (tied and one.name == "output.weight")]
    there, taken = sum(prod(one.shape) for one in needed), sum(one.numel() for one in network.parameters())
    if there != taken:
        odd = [one.name for one in needed if one.name.startswith(ROTATION)]
        odd = odd or [one.name for one in needed if one.name.endswith(".bias")]
        raise UserError(
            f"{given}: holds {there:,} numbers, and the {network.config.model_type} that transformers makes of it has "
            f"{taken:,}{f' (it may leave out {first_few(odd)})' if odd else ''}: its activations would be other ones; "
            "give the model that it was made from"
        )


def _rotations(header: GgufHeader) -> dict[str, torch.Tensor]:
    """The tensors that scale the rotary frequencies."""
    return {name: one[:] for name, one in load_gguf_state_dict(header).items() if name.startswith(ROTATION)}
