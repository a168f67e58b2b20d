"""A pretended GPU: tensors with values in main memory that call themselves `cuda:0` and refuse what a GPU refuses.

torch's own `FakeTensorMode` knows no values, so whatever depends on them (marching, `nonzero`, `.item()`) does not run
in it, and a build for the CPU cannot differentiate its CUDA tensors. Here every operation is computed on the CPU, after
a look at where its arguments pretend to be. What autocast does is what it does on CUDA.

It says nothing of kernels: whether CUDA has one for a type, how fast it is, how it rounds. On a machine with a GPU
nothing is pretended, and the same tests run on that.
"""

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.accelerators import CPUAccelerator
from lightning.fabric.plugins import MixedPrecision, Precision
from lightning.fabric.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from core.training import launching
from core.training.settings import PRECISIONS

GPU = torch.device("cuda:0")
# C++ is told another device, whose gradients, unlike CUDA's, need no streams; autocast takes it for CUDA.
INSIDE = torch.device("xla:0")
CUDA, XLA, META = 1, 9, 14  # torch's numbers for kinds of devices (c10/core/DeviceType.h)
# Torch asks a device's guard, from this table, for the present stream.
LIBRARY = Path(torch.__file__).parent / "lib" / "libc10.so"
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"

aten = torch.ops.aten
MOVES = {aten._to_copy, aten.copy_}  # take tensors of any two devices
# Their indices may be on the CPU.
INDEXES = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# Take numbers on the CPU, as tensors without dimensions, as pointwise operations of two tensors do.
TAKE_NUMBERS = {aten.where, aten.masked_fill, aten.masked_fill_, aten.index_put, aten.index_put_}
RealGenerator = torch.Generator


class Misplaced(RuntimeError):
    """What would fail on a GPU."""


class Far(torch.Tensor):
    """A tensor on the pretended GPU; `here` holds its values."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "Far":
        there = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=INSIDE, _extra_dispatch_keys=torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA),
        )  # fmt: skip
        there.here = here
        return there

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(function, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.here!r})"


class _Dispatch(TorchDispatchMode):
    """Sees, beside what takes Far tensors, what makes new ones."""

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # so torch looks for no driver where it meets the device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(function, args, kwargs or {})


class _WithIndex(TorchFunctionMode):
    """`cuda` is `cuda:0`; a real GPU's driver says so."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = [GPU if isinstance(arg, (str, torch.device)) and str(arg) == "cuda" else arg for arg in args]
        kwargs = kwargs or {}
        return function(*args, **(kwargs | {"device": GPU} if str(kwargs.get("device")) == "cuda" else kwargs))


class _Generator(RealGenerator):
    """A generator on any device; it draws what the CPU's does."""

    far: ClassVar[set[int]] = set()  # operations see the generator that is inside of this object

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        made = super().__new__(cls)
        if torch.device(device).type == "cuda":
            cls.far.add(made._cdata)
            weakref.finalize(made, cls.far.discard, made._cdata)
        return made

    @property
    def device(self) -> torch.device:
        return GPU if self._cdata in self.far else torch.device("cpu")


def _dispatch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes on the CPU what a GPU would compute, or raises Misplaced."""
    asked, generator = kwargs.get("device"), kwargs.get("generator")
    given: list[torch.Tensor] = []
    _each(lambda leaf: given.append(leaf) if isinstance(leaf, torch.Tensor) else None, (*args, *kwargs.values()))
    far = _is_far(function, args, given) if asked is None else asked.type in ("cuda", "xla")
    if generator is not None and (generator._cdata in _Generator.far) != far:
        raise Misplaced(f"{function}: the generator is on another device than what it draws")
    outer = {id(tensor.here): tensor for tensor in given if isinstance(tensor, Far)}
    if far and asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner = _each(lambda leaf: leaf.here if isinstance(leaf, Far) else leaf, (*args, *kwargs.values()))
    result = function(*inner[: len(args)], **dict(zip(kwargs, inner[len(args) :], strict=True)))

    def back(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if (same := outer.get(id(leaf))) is not None:
            assert same.shape == leaf.shape, f"{function} changes a shape in place, which is not pretended here"
            return same
        return Far(leaf) if far else leaf

    return _each(back, result)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """`change` of what lists and tuples hold, however deep."""
    return type(value)([_each(change, leaf) for leaf in value]) if type(value) in (list, tuple) else change(value)


def _is_far(function: Any, args: Any, given: list[torch.Tensor]) -> bool:
    """Whether the result is on the GPU; raises Misplaced for arguments that do not go together."""
    packet = function.overloadpacket
    if packet in MOVES:
        return isinstance(given[0], Far)
    if packet in INDEXES:
        indices = [index for index in args[1] if index is not None]
        if not isinstance(args[0], Far) and any(isinstance(index, Far) for index in indices):
            raise Misplaced(f"{function}: a tensor on the CPU is indexed by one on the GPU")
        given = [tensor for tensor in given if not any(tensor is index for index in indices)]
    numbers = packet in TAKE_NUMBERS or (torch.Tag.pointwise in function.tags and len(given) == 2)
    far = [tensor for tensor in given if isinstance(tensor, Far)]
    near = [tensor for tensor in given if not isinstance(tensor, Far) and not (numbers and tensor.ndim == 0)]
    # What is written in place stays where it is.
    if far and (near or (function._schema.is_mutable and not isinstance(given[0], Far))):
        shapes = ", ".join(f"{list(tensor.shape)} on {tensor.device.type}" for tensor in given)
        raise Misplaced(f"{function}: tensors on different devices: {shapes}")
    return bool(far)


def _device_guards() -> Any:
    """Torch's table of its devices' guards; skips the test where this torch has not what pretending takes."""
    try:
        guards = (ctypes.c_void_p * (META + 1)).in_dll(ctypes.CDLL(str(LIBRARY)), REGISTRY)
        for name in ("_only_lift_cpu_tensors", "_set_only_lift_cpu_tensors", "_TorchDispatchModeKey"):
            getattr(torch._C, name)
        Far(torch.zeros(1))
    except (OSError, ValueError, AttributeError, TypeError) as lacking:
        pytest.skip(f"no real GPU, and none can be pretended with torch {torch.__version__} here: {lacking}")
    return guards


@contextmanager
def gpu() -> Iterator[torch.device]:
    """Within it one can compute on this device: forwards, backwards, under autocast, with generators."""
    if torch.cuda.is_available():
        yield GPU
        return
    guards = _device_guards()
    before = guards[CUDA], guards[XLA], torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        guards[CUDA] = guards[XLA] = guards[META]  # that of no device has no stream, and nothing to do
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) moves where it is seen
        torch.__future__.set_swap_module_params_on_conversion(
            True
        )  # a parameter that moves is the same object, as ever
        try:
            with torch.autograd.set_multithreading_enabled(False), _Dispatch(), _WithIndex():
                yield GPU
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swaps)
            torch._C._set_only_lift_cpu_tensors(before[2])
            guards[CUDA], guards[XLA] = before[:2]


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """There is nothing to set up."""


def gpu_fabric(trainer: Mapping[str, Any]) -> Fabric:
    """What `make_fabric` makes for one GPU."""
    if torch.cuda.is_available():
        return launching.make_fabric({**trainer, "accelerator": "cuda"})
    precision = PRECISIONS[str(trainer["precision"])]
    return Fabric(
        strategy=SingleDeviceStrategy(device=GPU, accelerator=_Accelerator()),
        plugins=[Precision() if precision == "32-true" else MixedPrecision(precision, device="cuda")],  # type: ignore
    )
