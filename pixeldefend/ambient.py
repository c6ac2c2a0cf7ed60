"""What a caller has set around a call, such as autocast: it changes no result, and no call changes it.

`torch_defaults` sets for a block what belongs to a thread. torch's default type belongs to the process, where another
thread may change it at any time, so the code of this package names the type of every tensor that it makes of numbers.
Modes and `requires_grad` belong to modules, which threads share: `modes_kept` and `weights_frozen` count the blocks
that need them changed.

Not set here, since they belong to the process and change only how results are rounded: the number of threads,
`torch.set_float32_matmul_precision`, and the flags in `torch.backends`, such as those for TF32.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACCELERATOR = torch.accelerator.current_accelerator(check_available=False)
# the device types for which autocast may be on
DEVICE_TYPES = ("cpu",) if ACCELERATOR is None else ("cpu", ACCELERATOR.type)


def _in_child(function: Callable[[], object]) -> None:
    """Has a function called in every process that is forked from this one."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=function)


# The OpenMP threads of a process do not exist in its children, which would wait for them for ever. A single thread
# waits for no others. DataLoader does the same in its workers.
_in_child(lambda: torch.set_num_threads(1))


@contextmanager
def torch_defaults(seed: int | None = None) -> Iterator[None]:
    """Runs a block, or a function that it decorates, under the defaults of torch and numpy.

    Autocast and inference mode are off, and tensors are made on the CPU and of float32 unless the code says otherwise.
    Gradients are computed if the caller has them computed.

    Args:
        seed: None, or the seed of what torch draws in the block without a generator. torch's default generator is then
            neither used nor changed.
    """
    with ExitStack() as stack:
        gradients = torch.is_grad_enabled()
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))  # which turns gradients on
            stack.enter_context(torch.set_grad_enabled(gradients))
        for device_type in DEVICE_TYPES:
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        usual = torch.get_default_dtype() == torch.float32 and torch.get_default_device().type == "cpu"
        if seed is not None or not usual:
            stack.enter_context(_Defaults(seed))
        stack.enter_context(np.errstate(all="ignore"))
        yield


def ordinary(x: Tensor) -> Tensor:
    """Returns a tensor, or a copy of an inference tensor, which could not take part in gradients."""
    return x.clone() if x.is_inference() else x


# functions that make a tensor of torch's default type
OF_DEFAULT_TYPE = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.linspace, torch.eye}
# functions that make a tensor of the type of their arguments, which is torch's default type if these are plain floats
OF_ARGUMENTS = {torch.tensor, torch.as_tensor, torch.asarray, torch.full, torch.arange}
RANDOM_FACTORIES = {torch.rand, torch.randn, torch.randint, torch.randperm}
FACTORIES = OF_DEFAULT_TYPE | OF_ARGUMENTS | RANDOM_FACTORIES
# functions that draw on the device of their first argument
RANDOM_FUNCTIONS = {
    *(torch.bernoulli, torch.multinomial, torch.poisson, torch.Tensor.bernoulli, torch.Tensor.multinomial),
    *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.random_, torch.Tensor.bernoulli_),
    *(torch.Tensor.exponential_, torch.Tensor.geometric_, torch.Tensor.cauchy_, torch.Tensor.log_normal_),
    *(nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_),
}


class _Defaults(TorchFunctionMode):
    """Gives torch's functions a device, a type and a generator where the code that calls them gives none.

    Args:
        seed: As for `torch_defaults`.
    """

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = (*args, *kwargs.values())
        device = next((value.device for value in given if isinstance(value, Tensor)), torch.device("cpu"))
        if func in FACTORIES:
            device = kwargs["device"] = torch.device(device if kwargs.get("device") is None else kwargs["device"])
            if kwargs.get("dtype") is None and func in OF_DEFAULT_TYPE:
                kwargs["dtype"] = torch.float32
        draws = func in RANDOM_FACTORIES or func in RANDOM_FUNCTIONS
        if draws and self.seed is not None and kwargs.get("generator") is None:
            kwargs["generator"] = self._generator(device, self.seed)
        made = func(*args, **kwargs)
        untyped = func in OF_ARGUMENTS and kwargs.get("dtype") is None and made.dtype == torch.get_default_dtype()
        if untyped and not any(hasattr(value, "dtype") for value in given):
            made = func(*args, **kwargs, dtype=torch.float32)
        return made

    def _generator(self, device: torch.device, seed: int) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(seed)
        return self.generators[device]


class _Turns:
    """A lock that is free in a forked process, whatever thread held it before."""

    def __init__(self) -> None:
        self.renew()
        _in_child(self.renew)

    def renew(self) -> None:
        self.lock = threading.Lock()


_filters = _Turns()


@contextmanager
def warnings_ignored() -> Iterator[None]:
    """Ignores warnings in the block, one thread at a time, since all threads have the same filters.

    It is not for code that scores: another thread may set filters of its own meanwhile, which would be lost.
    """
    with _filters.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Kept:
    """An attribute of objects that threads share: the first block that changes it saves it, the last one restores it.

    Args:
        attribute: The name of the attribute.
    """

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute
        self.lock = threading.Lock()
        # by the object's id: the number of blocks that need it changed, the object, and its own value
        self.saved: dict[int, tuple[int, Any, Any]] = {}
        _in_child(self._forget)

    @contextmanager
    def __call__(self, objects: Iterable[Any]) -> Iterator[None]:
        """Restores the attribute of each object after the block, unless another block still needs it changed."""
        found = {id(each): each for each in objects}
        with self.lock:
            for key, each in found.items():
                blocks, _, value = self.saved.get(key, (0, each, getattr(each, self.attribute)))
                self.saved[key] = blocks + 1, each, value
        try:
            yield
        finally:
            with self.lock:
                last = []
                for key in found.keys() & self.saved.keys():
                    blocks, each, value = self.saved.pop(key)
                    if blocks > 1:
                        self.saved[key] = blocks - 1, each, value
                    else:
                        last.append((each, value))
                self._restore(last)

    def _restore(self, found: list[tuple[Any, Any]]) -> None:
        for each, value in found:
            setattr(each, self.attribute, value)

    def _forget(self) -> None:
        """Ends all blocks in a forked process: their threads are not in it, and one of them may hold the lock."""
        self.lock = threading.Lock()
        self._restore([(each, value) for _, each, value in self.saved.values()])
        self.saved.clear()


class _KeptModes(_Kept):
    def _restore(self, found: list[tuple[Any, Any]]) -> None:
        for part, training in found:
            if training and type(part).train is not nn.Module.train:
                part.train()  # it does more than to set the mode: some modules merge weights for evaluation
        super()._restore(found)


_modes, _gradients = _KeptModes("training"), _Kept("requires_grad")


@contextmanager
def modes_kept(*modules: nn.Module | None) -> Iterator[None]:
    """Puts modules into evaluation mode for the block, and restores the mode of every sub-module after it.

    Blocks in several threads may overlap: the modes come back when the last of them ends.

    Args:
        *modules: Modules; None is skipped.
    """
    given = [module for module in modules if module is not None]
    with _modes(part for module in given for part in module.modules()):
        for module in given:
            module.eval()
        yield


@contextmanager
def weights_frozen(*modules: nn.Module | None) -> Iterator[None]:
    """Computes no gradients of the modules' weights inside the block, since attacks do not need them.

    Blocks in several threads may overlap, as those of `modes_kept`.

    Args:
        *modules: Modules; None is skipped.
    """
    weights = [weight for module in modules if module is not None for weight in module.parameters()]
    weights = [weight for weight in weights if not weight.is_inference()]  # these have no gradients
    with _gradients(weights):
        for weight in weights:
            weight.requires_grad_(False)
        yield
