"""A pretend device: tensors that lie in the CPU's memory, and behave as if they lay on a GPU that is not here.

Every operation really runs, on the CPU, so a pass on the pretend device computes real numbers. Two things are as on
CUDA. An operation whose tensors are on different devices raises. And what waits for the device is counted, with the
line of neurexp that caused it: reading a number, copies to the CPU and from pageable memory, operations whose result
has a size that depends on the data (`nonzero`, boolean indexing).

    with pretending() as device:
        model.to("pretend")
        …
        assert device.waits == {}

The device is PyTorch's PrivateUse1, a tensor subclass, and a dispatch mode that also sees what makes tensors. It has
two cards, `pretend:0` and `pretend:1`. What it cannot show: speed, memory, CUDA's own kernels and their rounding, races
of streams, and every rule of CUDA that is not written here.
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import neurexp

NAME, CARDS = "pretend", 2
PACKAGE, TESTS = str(Path(neurexp.__file__).parent), str(Path(__file__).parents[1])

aten = torch.ops.aten

# Their result, or its size, is needed by the program: CUDA waits until the device has come so far
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.allclose.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
}
# Run as a whole, which is faster and rounds as the CPU does; none of them waits
WHOLE = {
    aten.linear.default,
    aten.matmul.default,
    aten.layer_norm.default,
    aten.scaled_dot_product_attention.default,
    aten.softmax.int,
    aten.log_softmax.int,
}
PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.matmul.default, aten.mm.out, aten.bmm.out}
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor}
PUTTING = {
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
FILLING = {  # take a number from the CPU
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.fill.Tensor,
    aten.fill_.Tensor,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor,
}
COPYING = {aten.copy_.default, aten.copy.default}


class MixedDevicesError(RuntimeError):
    """An operation got tensors of different devices."""


class OnDevice(torch.Tensor):
    """A tensor on the pretend device; its numbers are in `elements`."""

    elements: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elements: torch.Tensor, device: torch.device) -> "OnDevice":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            elements.size(),
            strides=elements.stride(),
            storage_offset=elements.storage_offset(),
            dtype=elements.dtype,
            device=device,
        )
        made.elements = elements
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({list(self.shape)}, {self.dtype}, {self.device})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if _now is None:
            raise RuntimeError("a tensor of the pretend device is used where nothing pretends")
        return _now.run(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """What happens while it is pretended: `waits` counts waits by the line of neurexp that caused them, and `pageable`
    copies of the CPU's pageable memory that do not wait for the device, but may wait for their own end."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.pageable: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.run(func, args, kwargs or {})

    def clear(self) -> None:
        """Forgets what was counted."""
        self.waits.clear()
        self.pageable.clear()

    def run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """An operation: as it is if it has to do with the CPU alone, else on the tensors' elements."""
        flat = [*args, *kwargs.values()]
        flat += [one for some in flat if isinstance(some, list | tuple) for one in some]
        given = [one for one in flat if isinstance(one, torch.Tensor)]
        here = [one for one in given if isinstance(one, OnDevice)]
        target = next((_numbered(one) for one in flat if isinstance(one, torch.device)), None)
        if func is aten.is_pinned.default:
            return getattr(args[0], "is_in_pinned_memory", False)
        if func in (aten._pin_memory.default, aten.pin_memory.default):
            if here:
                raise RuntimeError(f"cannot pin a tensor of {here[0].device}: only dense CPU tensors can be pinned")
            pinned = args[0].clone()
            pinned.is_in_pinned_memory = True
            return pinned
        if not here and (target is None or target.type != NAME):
            return func(*args, **kwargs)
        if func.namespace != "aten":
            raise NotImplementedError(f"{func} is an operation of the CPU: {NAME} has none")
        if func not in WHOLE and _has_parts(func):
            with _Also(self):  # what it makes inside is of the device as well
                return func.decompose(*args, **kwargs)
        if func is aten._fused_sdp_choice.default:
            return 0  # the choice by formula: others are of one device's own
        device = self._check(func, args, kwargs, given, here, target)
        self._count(func, args, kwargs, device)
        return self._computed(func, args, kwargs, here, device)

    def _check(
        self,
        func: Any,
        args: tuple,
        kwargs: dict[str, Any],
        given: list[torch.Tensor],
        here: list[OnDevice],
        target: torch.device | None,
    ) -> torch.device:
        """The device of the result. Raises MixedDevicesError where CUDA would refuse."""
        devices = {one.device for one in here}
        if func in COPYING:
            return args[0].device
        if func is aten._to_copy.default:
            return target or args[0].device
        if target is not None and target.type == NAME and isinstance(kwargs.get("generator"), torch.Generator):
            raise MixedDevicesError(f"{func}: the generator is of the CPU, the tensor of {target}")
        if not here:
            assert target is not None
            return target
        if len(devices) > 1:
            raise MixedDevicesError(f"{func} got tensors of {', '.join(sorted(map(str, devices)))}")
        (device,) = devices
        others = [one for one in given if not isinstance(one, OnDevice)]
        if func in PRODUCTS and not (given[0].is_floating_point() or given[0].is_complex()):
            raise NotImplementedError(f"{func} of {given[0].dtype}: CUDA has no product of whole numbers")
        if func in INDEXING or func in PUTTING:  # indices may be on the CPU; and so may one number that is put
            own = [args[0], *([args[2]] if func in PUTTING and args[2].dim() else [])]
            others = [one for one in own if not isinstance(one, OnDevice)]
        elif torch.Tag.pointwise in func.tags or func in FILLING:
            writes = func._schema.arguments[0].alias_info is not None
            others = [one for one in others if one.dim() or (writes and one is args[0])]
        if others:
            raise MixedDevicesError(
                f"{func} got tensors of {device} and of the CPU {[list(one.shape) for one in others]}"
            )
        return target if target is not None and not others else device

    def _count(self, func: Any, args: tuple, kwargs: dict[str, Any], device: torch.device) -> None:
        """Counts the operation if CUDA would wait for it."""
        if func in WAITING:
            self.waits[_place()] += 1
        elif func is aten._to_copy.default:
            self._count_copy(args[0], device, kwargs.get("non_blocking", False))
        elif func in COPYING:
            self._count_copy(args[1], device, args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif func in INDEXING or func in PUTTING:
            indices = [one for one in args[1] if one is not None]
            masks = [one for one in indices if one.dtype in (torch.bool, torch.uint8)]
            fills = func in PUTTING and args[2].numel() == 1 and len(masks) == len(indices)  # as `masked_fill`
            moved = [*indices, *([args[2]] if func in PUTTING else [])]
            if (masks and not fills) or any(not isinstance(one, OnDevice) for one in moved):
                self.waits[_place()] += 1
        elif func is aten.repeat_interleave.Tensor:
            self.waits[_place()] += kwargs.get("output_size") is None
        elif func is aten.histc.default:  # looks for its own limits unless it is given some
            self.waits[_place()] += len(args) < 4 or args[2] == args[3]

    def _count_copy(self, source: torch.Tensor, device: torch.device, non_blocking: bool) -> None:
        if source.numel() == 0:
            return
        if not isinstance(source, OnDevice):  # to the device
            if not non_blocking:
                self.waits[_place()] += 1
            elif not getattr(source, "is_in_pinned_memory", False):
                self.pageable[_place()] += 1
        elif device.type == "cpu":
            self.waits[_place()] += 1

    def _computed(
        self, func: Any, args: tuple, kwargs: dict[str, Any], here: list[OnDevice], device: torch.device
    ) -> Any:
        wrapped: dict[int, torch.Tensor] = {id(one.elements): one for one in here}
        plain_args = [_on_the_cpu(one) for one in args]
        plain_kwargs = {name: _on_the_cpu(one) for name, one in kwargs.items()}
        if func is aten._to_copy.default:
            plain_kwargs["non_blocking"] = False
        if func is aten.copy_.default and not isinstance(args[0], OnDevice):
            func(*plain_args, **plain_kwargs)
            return args[0]
        found = func(*plain_args, **plain_kwargs)

        def wrap(one: Any) -> Any:
            if not isinstance(one, torch.Tensor) or device.type != NAME:
                return one
            known = wrapped.get(id(one))  # what an operation writes into is handed on
            if known is not None:
                return known
            with torch.inference_mode(one.is_inference()):  # a view of an ordinary tensor is one
                return OnDevice(one, device)

        return type(found)(map(wrap, found)) if isinstance(found, list | tuple) else wrap(found)


def _on_the_cpu(one: Any) -> Any:
    if isinstance(one, torch.device):
        return torch.device("cpu")
    if isinstance(one, list | tuple):
        return [_on_the_cpu(part) for part in one]
    return one.elements if isinstance(one, OnDevice) else one


@cache
def _has_parts(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _numbered(device: torch.device) -> torch.device:
    return torch.device(NAME, 0) if device.type == NAME and device.index is None else device


def _place() -> str:
    """The innermost line of neurexp that is running, or of the test where there is none."""
    frame: Any = sys._getframe(1)
    within = ""
    while frame is not None:
        name, line = frame.f_code.co_filename, f":{frame.f_lineno}"
        if name.startswith(PACKAGE):
            return name[len(PACKAGE) + 1 :] + line + within
        if "/transformers/" in name and not within:
            within = f" in {Path(name).name}{line}"
        if name.startswith(TESTS) and name != __file__:
            return name[len(TESTS) + 1 :] + line + within
        frame = frame.f_back
    return "elsewhere"


class _Module(backend_registration._DummyBackendModule):
    """What `torch.pretend` is."""

    def device_count(self) -> int:
        return CARDS

    def _lazy_init(self) -> None:
        pass


_now: Pretending | None = None
# At import, and so before any test: the first backward of a process looks which devices there are
backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())


@contextmanager
def pretending() -> Iterator[Pretending]:
    """Within the context there is the device `pretend`, for the calling thread and for threads that start there."""
    global _now
    before, mode, run = _now, Pretending(), threading.Thread.run
    swaps = torch.__future__.get_swap_module_params_on_conversion()

    def run_pretending(thread: threading.Thread) -> None:
        with _in_this_thread(_Also(mode)):
            run(thread)

    try:
        _now = mode
        torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied weights stay tied
        threading.Thread.run = run_pretending  # type: ignore[method-assign]
        with _in_this_thread(mode):
            yield mode
    finally:
        threading.Thread.run = run  # type: ignore[method-assign]
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _now = before


class _Also(TorchDispatchMode):
    """The same in another thread."""

    def __init__(self, mode: Pretending) -> None:
        super().__init__()
        self._mode = mode

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self._mode.run(func, args, kwargs or {})


@contextmanager
def _in_this_thread(mode: TorchDispatchMode) -> Iterator[None]:
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=)` makes them on the CPU and moves them
    try:
        with mode:
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
