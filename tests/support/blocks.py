"""How each family's block computes, and models of a family whose config changes that.

Names of weights and the order of operations are written here from transformers' model files, not taken from
`neurexp.models.families`.
"""

from dataclasses import dataclass

from tiny import CONFIGS
from torch.nn.functional import gelu, relu, silu


def gelu_tanh(x):
    return gelu(x, approximate="tanh")


@dataclass(frozen=True)
class Block:
    """How a family's block computes: names of weights in block i, and its non-linearity."""

    prefix: str  # of the block's weights in the file
    down: str
    act: object
    out: str = "self_attn.o_proj"
    after_attention: str = ""  # a norm of what attention puts out
    after_mlp: str = ""
    factor: str = ""  # a field of the config that what is added is multiplied by
    transposed: bool = False  # GPT-2 saves [in, out]
    bare: bool = False  # the file's names lack the prefix of the model with its head


LLAMA = Block("model.layers", "mlp.down_proj", silu)
GEMMA = Block("model.layers", "mlp.down_proj", gelu_tanh)
POST_NORMS = {"after_attention": "post_attention_layernorm", "after_mlp": "post_feedforward_layernorm"}
BLOCKS = {
    "gpt_neo": Block("transformer.h", "mlp.c_proj", gelu_tanh, "attn.attention.out_proj"),
    "gpt2": Block("transformer.h", "mlp.c_proj", gelu_tanh, "attn.c_proj", transposed=True),
    "gptj": Block("transformer.h", "mlp.fc_out", gelu_tanh, "attn.out_proj"),
    "gpt_neox": Block("gpt_neox.layers", "mlp.dense_4h_to_h", gelu, "attention.dense"),
    "opt": Block("model.decoder.layers", "fc2", relu, "self_attn.out_proj"),
    "bloom": Block("transformer.h", "mlp.dense_4h_to_h", gelu_tanh, "self_attention.dense"),
    "falcon": Block("transformer.h", "mlp.dense_4h_to_h", gelu, "self_attention.dense"),
    "phi": Block("model.layers", "mlp.fc2", gelu_tanh, "self_attn.dense"),
    "phi3": LLAMA,
    "starcoder2": Block("model.layers", "mlp.c_proj", gelu_tanh),
    "granite": Block("model.layers", "mlp.down_proj", silu, factor="residual_multiplier"),
    "gemma": GEMMA,
    "gemma2": Block("model.layers", "mlp.down_proj", gelu_tanh, **POST_NORMS),
    "gemma3_text": Block("model.layers", "mlp.down_proj", gelu_tanh, **POST_NORMS),
    "olmo2": Block("model.layers", "mlp.down_proj", silu, **POST_NORMS),
    "olmo3": Block("model.layers", "mlp.down_proj", silu, **POST_NORMS),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "olmo", "smollm3", "stablelm", "cohere", "cohere2"), LLAMA),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"), LLAMA),
}
EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
UNGATED = ("gpt_neo", "gpt2", "gptj", "gpt_neox", "opt", "bloom", "falcon", "phi", "starcoder2")
PARALLEL = ("gptj", "gpt_neox", "falcon", "phi", "cohere", "cohere2")  # by default
# Models of a family whose config changes what a block does
VARIANTS = {
    **{name: (name, {}) for name in CONFIGS},
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "stablelm, parallel": ("stablelm", {"use_parallel_residual": True}),
    "stablelm, norms of heads": ("stablelm", {"qk_layernorm": True}),
    "falcon, heads of keys": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, heads": ("falcon", {"multi_query": False, "parallel_attn": False, "bias": True}),
    "opt, norms last": ("opt", {"do_layer_norm_before": False}),
    "bloom, stream of norms": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "gpt2, relu": ("gpt2", {"activation_function": "relu"}),
}
NO_MID = {*PARALLEL, "stablelm, parallel", "falcon, heads of keys", "opt, norms last"}
