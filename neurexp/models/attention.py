"""Which of transformers' attention implementations a model computes with, where the user chooses one.

Each computes the same function, up to rounding, from other kernels. Knows no weights.
"""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from neurexp.errors import UserError, one_line
from neurexp.models.spread import device_of

# Name → the module that it needs, and whether transformers can use what is installed
FLASH = {
    "flash_attention_2": ("flash_attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash_attn_interface", is_flash_attn_3_available),
    "flash_attention_4": ("flash_attn", is_flash_attn_4_available),
}
HALF = (torch.bfloat16, torch.float16)


def check_attention(attention: str, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Checks that the architecture of `config` has an implementation, and that this machine can run it.

    Raises:
        UserError: it has not, or cannot; the message names what there is.
    """
    known = _of_architecture(config)
    missing = {name: _missing(name, device, dtype) for name in known}
    if missing.get(attention, " ") == "":
        return
    there = [name for name in known if not missing[name]]
    give = f"give {', '.join(there)}, or null for transformers' own choice"
    if attention in known:
        raise UserError(f"model.attention={attention}: needs {missing[attention]}; {give}")
    raise UserError(f"model.attention={attention}: transformers has no such attention for {config.model_type}; {give}")


def check_it_runs(attention: str, network: PreTrainedModel) -> None:
    """Runs one forward of a few tokens with the chosen implementation.

    Raises:
        UserError: transformers took another implementation, or the forward fails.
    """
    used, why = attention_of(network), ""
    if used == attention:
        try:
            with torch.inference_mode():
                network.base_model(torch.zeros(1, 2, dtype=torch.long, device=device_of(network)), use_cache=False)
            return
        except Exception as error:  # of a compiler or a kernel, each with its own
            why = f"its forward fails here ({one_line(error)})"
    raise UserError(
        f"model.attention={attention}: {why or f'transformers takes {used} in its place'}; give eager, or null for "
        "transformers' own choice"
    )


def attention_of(network: PreTrainedModel) -> str:
    """The implementation that transformers' own forward of `network` uses."""
    config: Any = network.base_model.config
    return str(config._attn_implementation)


def _of_architecture(config: PreTrainedConfig) -> list[str]:
    """The implementations that transformers has for an architecture."""
    found: Any = AutoModelForCausalLM._model_mapping[type(config)]
    model = found[0] if isinstance(found, tuple) else found
    known = ["eager"]
    known += ["sdpa"] if model._supports_sdpa else []
    known += ["flex_attention"] if model._supports_flex_attn else []
    return known + (list(FLASH) if model._supports_flash_attn else [])


def _missing(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """What a machine lacks for an implementation; an empty text if it lacks nothing."""
    lacks = []
    if name in FLASH:
        lacks += ["a GPU (device=cuda)"] if device.type != "cuda" else []
        lacks += ["device.dtype=bfloat16 or float16"] if dtype not in HALF else []
        package, is_usable = FLASH[name]
        if find_spec(package) is None:
            lacks.append(f"the package {package}")
        elif not lacks and not is_usable():
            lacks.append(f"another version of the package {package}")
    return " and ".join(lacks)
