"""The Open Inference Protocol, version 2, with its binary tensor extension, for clients of KServe and Triton.

Its models are the detectors.

Reference:
    github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException

from ..errors import ImageError
from .questions import File, Question
from .routes import note_verdicts, sender, service_of
from .schemas import MAX_IMAGES, first_problem, from_base64
from .service import Served

HEADER_LENGTH = "Inference-Header-Content-Length"
OUTPUTS = {"is_adversarial": "BOOL", "p_value": "FP64", "bits_per_dim": "FP64", "score": "FP64", "error": "BYTES"}
DTYPES = {"BOOL": np.dtype("<?"), "FP64": np.dtype("<f8")}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


class TensorParameters(BaseModel):
    """The parameters of an input; `binary_data_size` is the number of bytes after the JSON that hold its data."""

    binary_data_size: Annotated[int, Field(strict=True, ge=0)] | None = None


class _Tensor(BaseModel):
    name: str = "images"
    shape: Annotated[list[Annotated[int, Field(strict=True, ge=1, lt=2**31)]], Field(min_length=1, max_length=4)]
    parameters: TensorParameters | None = None


class PixelTensor(_Tensor):
    """Pixels, (N, H, W, C) or, if they are grey, (N, H, W); `data` are integers from 0 to 255, nested or flat."""

    datatype: Literal["UINT8"]
    data: Any = None

    def images(self, binary: bytes | None) -> list[np.ndarray]:
        """Returns the images, each (H, W) or (H, W, 3) uint8."""
        pixels = np.frombuffer(_flat(self.data) if binary is None else binary, np.uint8)
        _check_count(self, pixels.size)
        if len(self.shape) not in (3, 4) or (len(self.shape) == 4 and self.shape[3] not in (1, 3)):
            raise HTTPException(400, f"shape must be [N, height, width, 1 or 3], got {self.shape}")
        images = pixels.reshape(self.shape)
        return list(images[..., 0] if self.shape[3:] == [1] else images)


class FileTensor(_Tensor):
    """Image files, (N,); `data` are the files in base64."""

    datatype: Literal["BYTES"]
    data: list[Any] | None = None

    def files(self, binary: bytes | None) -> list[File]:
        """Returns the bytes of the files, or what is wrong with them; they have no names."""
        files = [_file(text) for text in self.data or []] if binary is None else _elements(binary)
        _check_count(self, len(files))
        return [("", data) for data in files]


class OutputParameters(BaseModel):
    """The parameters of an output; `binary_data` says whether its data follow the JSON, None as the request says."""

    binary_data: bool | None = None


class RequestedOutput(BaseModel):
    """An output that the client asks for."""

    name: Literal["is_adversarial", "p_value", "bits_per_dim", "score", "error"]
    parameters: OutputParameters | None = None

    def is_binary(self, default: bool) -> bool:
        """Returns whether the data of this output follow the JSON.

        Args:
            default: Whether the data of outputs follow the JSON where they do not say so themselves.
        """
        own = None if self.parameters is None else self.parameters.binary_data
        return default if own is None else own


class RequestParameters(BaseModel):
    """The parameters of a request; `binary_data_output` says whether the data of outputs follow the JSON."""

    binary_data_output: bool = False


class InferenceRequest(BaseModel):
    """One input tensor of images, and the outputs that the client asks for; all outputs if it names none."""

    id: str | None = None
    parameters: RequestParameters | None = None
    inputs: Annotated[
        list[Annotated[PixelTensor | FileTensor, Field(discriminator="datatype")]], Field(min_length=1, max_length=1)
    ]
    outputs: list[RequestedOutput] | None = None

    def wanted(self) -> dict[str, bool]:
        """Returns the name of each output, and whether its data follow the JSON."""
        default = self.parameters is not None and self.parameters.binary_data_output
        if not self.outputs:
            return dict.fromkeys(OUTPUTS, default)
        return {output.name: output.is_binary(default) for output in self.outputs}


@dataclass
class _Asked:
    """A request after its images are read, without the body, which may be large."""

    id: str | None
    outputs: dict[str, bool]  # by name, whether the output is binary
    arrays: list[np.ndarray]
    files: list[File]


@router.get("")
async def server() -> dict[str, Any]:
    """Give the name, the version and the extensions of this server."""
    return {"name": "pixeldefend", "version": version("pixeldefend"), "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Tell whether the server runs."""
    return {"live": True}


@router.get("/health/ready")
async def ready() -> dict[str, bool]:
    """Tell whether the server is ready to screen images."""
    return {"ready": True}  # detectors are loaded before the port is opened


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{number}", include_in_schema=False)
async def model(request: Request, name: str) -> dict[str, Any]:
    """Describe the input and the outputs of a detector.

    A size of -1 stands for any size.
    """
    channels, height, width = _served(request, name).image_shape or (-1, -1, -1)
    return {
        "name": name,
        "versions": ["1"],
        "platform": "pixeldefend",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, height, width, channels]}],
        "outputs": [{"name": output, "datatype": kind, "shape": [-1]} for output, kind in OUTPUTS.items()],
    }


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{number}/ready", include_in_schema=False)
async def model_ready(request: Request, name: str) -> dict[str, Any]:
    """Tell whether a detector is ready to screen images."""
    return {"name": _served(request, name).name, "ready": True}


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{number}/infer", include_in_schema=False)
async def infer(request: Request, name: str) -> Response:
    """Screen the images of one input tensor, `images`.

    The tensor holds pixels, UINT8 (N, H, W, C), or image files, BYTES (N,), which are base64 within JSON. The outputs
    are is_adversarial, p_value, bits_per_dim, score and error, each (N,). If an image cannot be screened, `error` says
    why (otherwise it is empty), its numbers are null or NaN, and `is_adversarial` is true: what has not been screened
    does not pass. If no image can be screened, the request fails, with status 400.
    """
    served, service = _served(request, name), service_of(request)
    length = request.headers.get(HEADER_LENGTH)
    asked = await service.in_decoding_thread(_read, await request.body(), length, served)
    if asked.files:
        questions = await service.screen(asked.files, **sender(request), name=name)
    else:
        questions = await service.screen_arrays(asked.arrays, name, **sender(request))
    note_verdicts(request, questions)
    if all(question.record.verdict == "error" for question in questions):
        raise HTTPException(
            500 if any(question.failed for question in questions) else 400, questions[0].answer()["error"]
        )
    return _response(name, asked, questions)


def _served(request: Request, name: str) -> Served:
    detectors = service_of(request).detectors
    if name not in detectors:
        raise HTTPException(404, f"there is no model {name!r}; there are: {', '.join(detectors)}")
    return detectors[name]


def _read(body: bytes, length: str | None, served: Served) -> _Asked:
    if length is not None and not (length.isdecimal() and len(length) < 20 and int(length) <= len(body)):
        raise HTTPException(400, f"{HEADER_LENGTH} {length!r} is no length within the body's {len(body)} bytes")
    end = len(body) if length is None else int(length)
    try:
        asked = InferenceRequest.model_validate_json(body[:end])
    except ValidationError as error:
        raise HTTPException(400, f"not an inference request: {first_problem(error)}") from None
    (tensor,) = asked.inputs
    if tensor.shape[0] > MAX_IMAGES:
        raise HTTPException(400, f"at most {MAX_IMAGES} images a request, got {tensor.shape[0]}")
    size = None if tensor.parameters is None else tensor.parameters.binary_data_size
    if size not in (None, len(body) - end):
        raise HTTPException(400, f"binary_data_size is {size}, but {len(body) - end} bytes follow the JSON")
    binary = None if size is None else body[end:]
    if isinstance(tensor, FileTensor):
        return _Asked(asked.id, asked.wanted(), [], tensor.files(binary))
    images = tensor.images(binary)
    if not served.detector.accepts(images[0]):
        raise HTTPException(400, f"shape is {tensor.shape}, {served.name} takes {served.detector.takes}")
    return _Asked(asked.id, asked.wanted(), images, [])


def _flat(data: Any) -> bytes:
    """Returns the pixels of nested or flat lists. numpy would take memory for the longest text in every place."""
    values = data
    while isinstance(values, list) and values and isinstance(values[0], list):
        if not all(isinstance(row, list) and len(row) == len(values[0]) for row in values):
            values = None
        else:
            values = list(chain.from_iterable(values))
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        raise HTTPException(400, "data must be whole numbers from 0 to 255, flat or nested like an array")
    try:
        return bytes(values)
    except ValueError:
        raise HTTPException(400, "data must be whole numbers from 0 to 255") from None


def _file(text: Any) -> bytes | ImageError:
    try:
        return from_base64(text)
    except ImageError as error:
        return error


def _elements(binary: bytes) -> list[bytes | ImageError]:
    """Splits the data of a BYTES tensor, in which the length of each element, four bytes, precedes it."""
    elements: list[bytes | ImageError] = []
    place = 0
    while place < len(binary) and len(elements) <= MAX_IMAGES:
        start = place + 4
        place = start + int.from_bytes(binary[place:start], "little")
        if len(binary) < place:
            raise HTTPException(400, "an element of a BYTES tensor is cut off")
        elements.append(binary[start:place])
    return elements


def _check_count(tensor: _Tensor, values: int) -> None:
    if values != math.prod(tensor.shape):
        raise HTTPException(400, f"shape {tensor.shape} has {math.prod(tensor.shape)} values, got {values}")


def _response(name: str, asked: _Asked, questions: list[Question]) -> Response:
    outputs, binary = [], b""
    for output, is_binary in asked.outputs.items():
        kind, values = OUTPUTS[output], [_value(question, output) for question in questions]
        made: dict[str, Any] = {"name": output, "datatype": kind, "shape": [len(values)]}
        if is_binary:
            data = _to_bytes(values, kind)
            made["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            made["data"] = values
        outputs.append(made)
    answer: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": outputs}
    if asked.id is not None:
        answer["id"] = asked.id
    if not binary:
        return JSONResponse(answer)
    header = json.dumps(answer).encode()
    headers = {HEADER_LENGTH: str(len(header))}
    return Response(header + binary, media_type="application/octet-stream", headers=headers)


def _value(question: Question, output: str) -> Any:
    answer = question.answer()
    if output == "is_adversarial":
        return answer["verdict"] != "clean"
    if output == "error":
        return answer["error"] or ""
    return answer[output] if answer[output] is not None and math.isfinite(answer[output]) else None


def _to_bytes(values: list[Any], kind: str) -> bytes:
    if kind == "BYTES":
        elements = [value.encode() for value in values]
        return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    return np.array(values, DTYPES[kind]).tobytes()
