"""Measurements of the machine and the model: time, memory, arithmetic, and the speed of matrix products.

Knows no experiment and no case.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from neurexp.models import kernels
from neurexp.models.sites import Site, blocks_of
from neurexp.models.spread import device_of

Shape = tuple[int, int]  # a linear layer's (inputs, outputs)
PROCESS = Path("/proc/self")
ALL_PROCESSES = Path("/proc/stat")


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """The seconds that `work` takes. Garbage is collected and the device is idle before it starts."""
    gc.collect()
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def peak_memory(work: Callable[[], object], device: torch.device) -> float | None:
    """How far memory rose above what was in use before `work`, in MB (10⁶ bytes); None where that is unknown.

    On CUDA what PyTorch had allocated, elsewhere the process's resident memory, on Linux only.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with suppress(OSError, AttributeError):  # return freed memory, which would hide what `work` takes
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text("5")  # resets the high-water mark
        before = _resident("VmRSS")
    except (OSError, KeyError):
        work()
        return None
    work()
    return max(0.0, _resident("VmHWM") - before)


def _resident(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines() if ":" in line)
    return int(lines[name].removesuffix("kB")) * 1024 / 1e6


class OtherLoad:
    """How busy other programs keep the processor, from the creation of this object on."""

    def __init__(self) -> None:
        self._began = self._now()

    def cores(self) -> float | None:
        """Cores that they kept busy, on average; None except on Linux."""
        now = self._now()
        if now is None or self._began is None:
            return None
        everybody, own, wall = (after - before for after, before in zip(now, self._began, strict=True))
        return max(0.0, everybody - own) / wall

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds of work of all cores, seconds of work of this process and its children, and seconds by the clock."""
        try:
            user, nice, system, _idle, _waiting, *interrupts = ALL_PROCESSES.read_text().split("\n", 1)[0].split()[1:9]
            ticks = sum(map(int, (user, nice, system, *interrupts)))
        except (OSError, ValueError):
            return None
        return ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]), time.perf_counter()


def free_memory(device: torch.device) -> float | None:
    """Bytes that are available, or None where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].removesuffix("kB")) * 1024
    return None


def seconds_by_operator(work: Callable[[], object], device: torch.device) -> tuple[list[tuple[str, float, int]], float]:
    """Runs `work` in PyTorch's profiler: (operator, own seconds, calls) for each operator, and the seconds in total.

    An operator's seconds are added up over the threads that call it; on CUDA they are those of the device.
    """
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    every_thread = _ExperimentalConfig(profile_all_threads=True)  # includes lanes that start inside
    with _silent(), profile(activities=activities, experimental_config=every_thread) as profiler:
        seconds = timed(work, device)
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"  # microseconds
    # On CUDA each kernel is listed as well as the operator that it belongs to: count it once
    operators = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
    return [(event.key, getattr(event, own) / 1e6, event.count) for event in operators], seconds


@contextmanager
def _silent() -> Iterator[None]:
    """Hides what the profiler's C++ code writes to standard error at every log level."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16 products; without them bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


BEFORE_ATTENTION = ("RESID_PRE", "Q", "K", "V")


@dataclass(frozen=True)
class Arithmetic:
    """Floating-point operations for one token (a multiplication and an addition are two)."""

    linear: Mapping[Shape, int]  # all layers of one shape together
    attention: float  # scores and weighted sums: the keys that a token may see, on average over a sequence

    @property
    def total(self) -> float:
        return sum(self.linear.values()) + self.attention


def count_arithmetic(network: PreTrainedModel, length: int, sites: Sequence[Site] = ()) -> Arithmetic:
    """The cost of the blocks in sequences of `length` tokens: of all, or up to the last of `sites` that is reached.

    One forward of one sequence shows which layers run, and in which order. Norms, non-linearities and embeddings are
    left out: they are not matrix products.
    """
    blocks = blocks_of(network)
    reached: list[nn.Module | Site] = []
    linear = [module for module in blocks.modules() if isinstance(module, nn.Linear | Conv1D)]
    handles = [
        module.register_forward_hook(lambda module, arguments, output: reached.append(module)) for module in linear
    ]
    handles += [site.listen(lambda activations, site=site: reached.append(site)) for site in sites]
    try:
        with torch.inference_mode():
            network.base_model(torch.zeros(1, length, dtype=torch.long, device=device_of(network)))
    finally:
        for handle in handles:
            handle.remove()
    attending = len(blocks)
    if sites:
        last = max(sites, key=reached.index)
        reached = reached[: reached.index(last)]
        attending = last.layer + (last.name not in BEFORE_ATTENTION)
    operations: dict[Shape, int] = {}
    for module in reached:
        if isinstance(module, nn.Linear | Conv1D):
            shape = _shape(module)
            operations[shape] = operations.get(shape, 0) + 2 * shape[0] * shape[1]
    config = network.config
    attention = sum(_attention(config, layer, length) for layer in range(attending))
    return Arithmetic(operations, attention)


def _shape(module: nn.Module) -> Shape:
    first, second = module.get_parameter("weight").shape
    return (first, second) if isinstance(module, Conv1D) else (second, first)


def _attention(config: PreTrainedConfig, layer: int, length: int) -> float:
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    keys = np.minimum(np.arange(1, length + 1), _window(config, layer) or length)
    return 4 * width * float(keys.mean())


def _window(config: PreTrainedConfig, layer: int) -> int | None:
    """How many tokens a layer attends to; None: all earlier ones."""
    kinds = getattr(config, "attention_layers", None)  # GPT-Neo
    if kinds is not None:
        return config.window_size if kinds[layer] == "local" else None
    types = getattr(config, "layer_types", None)
    if types is not None and types[layer] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


class Floor:
    """How fast the machine multiplies matrices of the model's shapes: the best of all tries, for each shape.

    A try multiplies random matrices outside any model, once with PyTorch's and once with neurexp's kernel.
    """

    def __init__(self, arithmetic: Arithmetic, rows: int, device: torch.device, dtype: torch.dtype):
        """`rows` is the number of tokens in a batch."""
        self._operations, self._rows, self._device, self._dtype = arithmetic.linear, rows, device, dtype
        self._best: dict[Shape, float] = {}

    def measure(self, repeats: int = 2) -> None:
        """Adds `repeats` tries for each shape and kernel."""
        for inputs, outputs in self._operations:
            x = torch.randn(self._rows, inputs, device=self._device, dtype=self._dtype)
            weight = torch.randn(outputs, inputs, device=self._device, dtype=self._dtype)
            for multiply in (functional.linear, kernels.linear):
                with torch.inference_mode():
                    multiply(x, weight)  # warm-up
                    for _ in range(repeats):
                        seconds = _seconds_of_product(multiply, x, weight, self._device)
                        best = self._best.get((inputs, outputs), float("inf"))
                        self._best[inputs, outputs] = min(best, seconds)

    @property
    def rate(self) -> float:
        """Floating-point operations a second, each shape weighted by its share of the arithmetic."""
        per_operation = {shape: best / (2 * self._rows * shape[0] * shape[1]) for shape, best in self._best.items()}
        seconds = sum(operations * per_operation[shape] for shape, operations in self._operations.items())
        return sum(self._operations.values()) / seconds


def _seconds_of_product(multiply: Callable, x: torch.Tensor, weight: torch.Tensor, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    multiply(x, weight)
    synchronize(device)
    return time.perf_counter() - began
