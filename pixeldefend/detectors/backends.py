"""Faster ways to run the net of a density, for computing its conditionals only.

float32: torch, the reference. bfloat16: torch with half the digits in convolutions and matrix products. It is about
twice as fast on CPUs that have instructions for it. Its scores differ by far more than rounding, so a detector needs a
separate calibration for it. openvino: float32 by OpenVINO (the extra `fast`), on the CPU, for densities of images. It
differs from torch by rounding only, and shares the calibration of float32.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..ambient import torch_defaults, warnings_ignored
from ..densities import Autoregressive, Density
from ..errors import ParameterError
from ..extras import extra

# backend -> its precision; backends of the same precision share a calibration
PRECISION = {"float32": "float32", "bfloat16": "bfloat16", "openvino": "float32"}


def check_backend(backend: str) -> str:
    """Returns the name of a backend after checking it.

    Raises:
        ParameterError: If the name is not a key of `PRECISION`.
    """
    if backend not in PRECISION:
        raise ParameterError(f"backend must be one of {', '.join(PRECISION)}, got {backend!r}")
    return backend


@torch_defaults()
def on_backend(density: Density, backend: str) -> Density:
    """Returns a density whose net is run by a backend, with the current weights.

    The result computes `conditionals` in evaluation mode only. It has no gradient and cannot draw samples.

    Args:
        density: A trained density.
        backend: A key of `PRECISION`; "float32" returns the density itself.

    Raises:
        ParameterError: If the backend is unknown or cannot run the density.
        MissingExtraError: If OpenVINO is not installed.
    """
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
