"""Faster ways to run the net of a density, for computing its conditionals only.

float32: torch, the reference. bfloat16: torch with half the digits in convolutions and matrix products. It is about
twice as fast on CPUs that have instructions for it. Its scores differ by far more than rounding, so a detector needs a
separate calibration for it. openvino: float32 by OpenVINO (the extra `fast`), on the CPU, for densities of images. It
differs from torch by rounding only, and shares the calibration of float32.

Which one is the fastest depends on the processor and on the density. `fastest_backend` measures it once.
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from ..ambient import torch_defaults, warnings_ignored
from ..densities import Autoregressive, Density
from ..errors import MissingExtraError, ParameterError
from ..extras import extra
from ..paths import cache_folder
from ..serialization import whole_file
from ..threads import in_threads

# backend -> its precision; backends of the same precision share a calibration
PRECISION = {"float32": "float32", "bfloat16": "bfloat16", "openvino": "float32"}
AUTO = "auto"  # stands for the fastest backend on this machine
CLEARLY = 1.1  # another backend is taken only if it is this much faster than float32
IMAGES, ROUNDS = 16, 3  # of the measurement; the images of each thread
METHOD = 2  # of the measurement: what another one found is not used
REMEMBERED = "backends.json"  # a file of `paths.cache_folder`


def check_backend(backend: str) -> str:
    """Returns the name of a backend after checking it.

    Raises:
        ParameterError: If the name is not a key of `PRECISION`.
    """
    if backend not in PRECISION:
        hint = "; load_detector and with_backend take 'auto'" if backend == AUTO else ""
        raise ParameterError(f"backend must be one of {', '.join(PRECISION)}, got {backend!r}{hint}")
    return backend


def chosen_backend(backend: str, density: Density, precisions: Collection[str]) -> str:
    """Returns the name of a backend after checking it, or the fastest one for "auto".

    Args:
        backend: A key of `PRECISION`, or "auto".
        density: A trained density.
        precisions: As for `fastest_backend`.

    Returns:
        A key of `PRECISION`.

    Raises:
        ParameterError: If the name is neither.
    """
    return fastest_backend(density, precisions) if backend == AUTO else check_backend(backend)


def fastest_backend(density: Density, precisions: Collection[str]) -> str:
    """Returns the backend that runs a density fastest on this machine.

    It is measured once for each machine, number of threads and density, which takes a few seconds, and is remembered in
    a file of `paths.cache_folder`.

    Args:
        density: A trained density.
        precisions: The precisions that may be used, values of `PRECISION`.

    Returns:
        A key of `PRECISION`: "float32", unless another backend is clearly faster.
    """
    if not isinstance(density, Autoregressive):
        return "float32"
    where = torch.cuda.get_device_name(density.device) if density.device.type == "cuda" else _processor()
    versions = [_version(name) for name in ("pixeldefend", "torch", "openvino")]
    key = json.dumps([METHOD, where, torch.get_num_threads(), versions, density.config], sort_keys=True)
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    seconds = _remembered().get(key)
    if seconds is None:
        seconds = _measured(density)
        _remember(key, seconds)
    allowed = [name for name in seconds if PRECISION[name] in precisions]
    best = min(allowed, key=lambda name: seconds[name], default="float32")
    return best if seconds[best] * CLEARLY < seconds["float32"] else "float32"


@torch_defaults(seed=0)
def _measured(density: Autoregressive) -> dict[str, float]:
    """Returns the seconds that each backend that can run a density takes for a batch, the least of some rounds."""
    made: dict[str, Density] = {}
    for name in PRECISION:
        with suppress(ParameterError, MissingExtraError):
            made[name] = _on_backend(density, name)
    sides = [64 if side is None else side for side in density.event_shape]
    n = IMAGES * (torch.get_num_threads() if density.device.type == "cpu" else 1)
    x = torch.rand(n, *sides).to(density.device, density.dtype)
    times: dict[str, list[float]] = {name: [] for name in made}
    with torch.inference_mode():
        for _ in range(1 + ROUNDS):  # in turns, since other programs may be busy for a while
            for name, fast in made.items():
                start = time.perf_counter()
                # as detectors do: OpenVINO divides a batch among its threads, and torch has a batch in each thread
                each = map if x.is_cuda or name == "openvino" else in_threads
                deque(each(fast.conditionals, x.split(IMAGES)), maxlen=0)  # type: ignore[arg-type]
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                times[name].append(time.perf_counter() - start)
    return {name: min(found[1:]) for name, found in times.items()}


def _remembered() -> dict[str, dict[str, float]]:
    """Returns what was measured before: the seconds of each backend, by key."""
    try:
        found = json.loads((cache_folder() / REMEMBERED).read_text())
        return {key: {name: float(row[name]) for name in row.keys() & PRECISION} for key, row in found.items()}
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError):  # missing, or not written by this module
        return {}


def _remember(key: str, seconds: dict[str, float]) -> None:
    # a folder that cannot be written to: it is measured again next time
    with suppress(OSError, RuntimeError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with whole_file(cache_folder() / REMEMBERED) as file:
            json.dump({**_remembered(), key: seconds}, file, indent=1)


def _processor() -> str:
    """Returns the model of the processor, and what torch uses of it."""
    return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()} {platform.node()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_bfloat16() -> bool:
    """Returns whether the CPU has instructions for bfloat16; True where torch cannot tell."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    known = [check() for check in checks if check is not None]
    return any(known) or not known


@torch_defaults()
def on_backend(density: Density, backend: str) -> Density:
    """Returns a density whose net is run by a backend, with the current weights.

    The result computes `conditionals` in evaluation mode only. It has no gradient and cannot draw samples.

    Args:
        density: A trained density.
        backend: A key of `PRECISION`; "float32" returns the density itself. There is a warning if it is "bfloat16" and
            the CPU has no instructions for it, because it is then slower than float32.

    Raises:
        ParameterError: If the backend is unknown or cannot run the density.
        MissingExtraError: If OpenVINO is not installed.
    """
    if backend == "bfloat16" and density.device.type == "cpu" and not _has_bfloat16():
        message = "this processor has no instructions for bfloat16, so the backend 'bfloat16' is slower than 'float32'"
        warnings.warn(message, stacklevel=2)
    return _on_backend(density, backend)


def made_once(made: dict[str, tuple[str, Density, Density]], role: str, density: Density, backend: str) -> Density:
    """Returns a density on a backend, which is made when it is first needed.

    Args:
        made: What was made before, by role.
        role: Which density of a detector it is.
        density: The density.
        backend: As for `on_backend`.

    Returns:
        As `on_backend`.
    """
    name, original, _ = made.get(role, ("", None, None))
    if name != backend or original is not density:
        made[role] = (backend, density, on_backend(density, backend))
    return made[role][2]


def _on_backend(density: Density, backend: str) -> Density:
    if check_backend(backend) == "float32":
        return density
    if not isinstance(density, Autoregressive):
        kind = type(density).__name__
        raise ParameterError(f"backend {backend!r} needs a density with a net, but {kind} has none: use 'float32'")
    if backend == "openvino" and (len(density.event_shape) != 3 or density.device.type != "cpu"):
        shape, device = density.event_shape, density.device
        raise ParameterError(f"backend 'openvino' is for images on the CPU; this density models {shape}, on {device}")
    shared = {id(t): t for t in (*density.parameters(), *density.buffers())}
    fast = copy.deepcopy(density, shared).eval()
    run = _in_bfloat16(fast) if backend == "bfloat16" else _by_openvino(fast)
    fast.parameters_of_sites = run  # type: ignore[method-assign]
    return fast


def _in_bfloat16(density: Autoregressive) -> Callable[..., Tensor]:
    parameters = density.parameters_of_sites

    def run(x: Tensor, *context: Any) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return parameters(x, *context)

    return run


def _by_openvino(density: Autoregressive) -> Callable[..., Tensor]:
    with extra("fast"):
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    sides = [16 if side is None else side for side in density.event_shape]
    example = torch.zeros(2, *sides, dtype=torch.float32, device="cpu")
    with torch.no_grad(), warnings_ignored():  # torch warns that tracing is deprecated
        # not openvino.convert_model, which reports its use over the network
        decoder: Any = TorchScriptPythonDecoder(_Parameters(density), example_input=(example,))
    frontend = FrontEndManager().load_by_framework("pytorch")
    try:
        model = frontend.convert(frontend.load(decoder))
    except Exception as error:  # the exceptions of OpenVINO have no narrower base class
        kind = type(density).__name__
        raise ParameterError(
            f"OpenVINO cannot run {kind}: use another backend ({str(error).splitlines()[-1]})"
        ) from error
    model.reshape([-1, *(-1 if side is None else side for side in density.event_shape)])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    requests = threading.local()  # a request serves one thread at a time

    def run(x: Tensor, context: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        parameters = requests.own.infer(x.contiguous().numpy())[0]
        if any(context):  # of a part of an image: see `NeLLoC.parameters_of_sites`
            upper, left, right = context
            parameters = parameters[:, :, upper:, left : x.shape[3] - right]
        return torch.from_numpy(parameters.copy())

    return run


class _Parameters(nn.Module):
    """`parameters_of_sites` as a module, because only modules can be traced."""

    def __init__(self, density: Autoregressive) -> None:
        super().__init__()
        self.density = density

    def forward(self, x: Tensor) -> Tensor:
        return self.density.parameters_of_sites(x)
