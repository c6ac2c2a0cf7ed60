"""The Open Inference Protocol, version 2, as KServe and Triton clients speak it, with its binary tensor extension
(github.com/kserve/open-inference-protocol). A model is a detector."""

from __future__ import annotations

import base64
import binascii
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from .service import Question, Service

MAX_IMAGES = 256  # a request
LENGTH = "Inference-Header-Content-Length"
TYPES = {"UINT8": np.dtype("<u1"), "BOOL": np.dtype("<?"), "FP64": np.dtype("<f8")}
OUTPUTS = {"is_adversarial": "BOOL", "p_value": "FP64", "bits_per_dim": "FP64", "score": "FP64"}

protocol = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


@protocol.get("")
async def server() -> dict[str, Any]:
    return {"name": "pixeldefend", "version": version("pixeldefend"), "extensions": ["binary_tensor_data"]}


@protocol.get("/health/live")
async def live() -> dict[str, bool]:
    return {"live": True}


@protocol.get("/health/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}  # detectors are loaded before the port is opened


@protocol.get("/models/{name}")
@protocol.get("/models/{name}/versions/{number}", include_in_schema=False)
async def model(request: Request, name: str) -> dict[str, Any]:
    channels, height, width = _shape(request, name)
    return {
        "name": name,
        "versions": ["1"],
        "platform": "pixeldefend",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, height, width, channels]}],
        "outputs": [{"name": output, "datatype": kind, "shape": [-1]} for output, kind in OUTPUTS.items()],
    }


@protocol.get("/models/{name}/ready")
@protocol.get("/models/{name}/versions/{number}/ready", include_in_schema=False)
async def model_ready(request: Request, name: str) -> dict[str, Any]:
    _shape(request, name)
    return {"name": name, "ready": True}


@protocol.post("/models/{name}/infer")
@protocol.post("/models/{name}/versions/{number}/infer", include_in_schema=False)
async def infer(request: Request, name: str) -> Response:
    """One input tensor `images`: UINT8 pixels, (N, H, W, C), or BYTES, (N,), image files (in JSON: base64). Outputs,
    each (N,): is_adversarial, p_value, bits_per_dim, score. One image that cannot be screened fails all (400)."""
    shape = _shape(request, name)
    service: Service = request.app.state.service
    who = {"client": request.state.client, "request": request.state.request_id}
    asked, given = await service.apart(_read, await request.body(), request.headers.get(LENGTH), shape)
    if given and isinstance(given[0], bytes):
        questions = await service.screen([("", data) for data in given], **who)
        wrong = [q for q in questions if q.result.record.detector not in (None, *_keys(service, name))]
        if wrong:
            got = f"{wrong[0].result.record.height} x {wrong[0].result.record.width}"
            raise HTTPException(400, f"an image is {got}, {name} models {shape[1]} x {shape[2]} (height x width)")
    else:
        questions = await service.screen_arrays(given, name, **who)
    for question in questions:
        if question.result.record.error is not None:
            raise HTTPException(400, question.result.record.error)
    return _response(name, asked, questions)


def _keys(service: Service, name: str) -> list[str]:
    return [key for key in service.screener.detectors if Path(key).stem == name]


def _shape(request: Request, name: str) -> tuple[int, int, int]:
    service: Service = request.app.state.service
    if name not in service.detectors:
        raise HTTPException(404, f"there is no model {name!r}; there are: {', '.join(service.detectors)}")
    density = service.detectors[name].density
    shape = density.event_shape if density is not None else None
    if shape is None or len(shape) != 3:
        raise HTTPException(404, f"{name} does not model images")
    return shape[0], shape[1], shape[2]


def _read(body: bytes, length: str | None, shape: tuple[int, int, int]) -> tuple[dict[str, Any], list[Any]]:
    """Returns what is asked, and the images: arrays, or the bytes of files."""
    asked, rest = _header(body, length)
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise HTTPException(400, "one input tensor is wanted: images")
    # without what has been read, and what was not asked for: either may be large, and is held until the answer
    wanted: dict[str, Any] = {key: asked[key] for key in ("id", "parameters", "outputs") if key in asked}
    if inputs[0].get("datatype") == "BYTES":
        return wanted, _files(inputs[0], rest)
    return wanted, _pixels(inputs[0], rest, shape)


def _header(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    """Returns the JSON and the binary data behind it."""
    if length is not None and not (length.isdecimal() and int(length) <= len(body)):
        raise HTTPException(400, f"{LENGTH} {length!r} is no length within the body's {len(body)} bytes")
    end = len(body) if length is None else int(length)
    try:
        asked = json.loads(body[:end])
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return asked, body[end:]


def _dimensions(tensor: dict[str, Any]) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or any(type(n) is not int or n < 1 for n in shape):
        raise HTTPException(400, f"shape must be positive numbers, got {shape!r}")
    if shape[0] > MAX_IMAGES:
        raise HTTPException(400, f"at most {MAX_IMAGES} images a request, got {shape[0]}")
    return shape


def _binary(tensor: dict[str, Any], rest: bytes) -> bytes | None:
    """Returns the tensor's binary data, or None if its data are in the JSON."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return None
    if type(size) is not int or size != len(rest):
        raise HTTPException(400, f"binary_data_size is {size!r}, {len(rest)} bytes follow the JSON")
    return rest


def _pixels(tensor: dict[str, Any], rest: bytes, shape: tuple[int, int, int]) -> list[np.ndarray]:
    if tensor.get("datatype") != "UINT8":
        raise HTTPException(400, f"datatype must be UINT8 or BYTES, got {tensor.get('datatype')!r}")
    dimensions = _dimensions(tensor)
    channels, height, width = shape
    if dimensions[1:] not in ([height, width, channels], [height, width] if channels == 1 else None):
        raise HTTPException(400, f"shape must be [N, {height}, {width}, {channels}], got {dimensions}")
    data = _binary(tensor, rest)
    if data is not None:
        pixels = np.frombuffer(data, np.uint8)
    else:
        try:
            given = np.asarray(tensor.get("data"))
        except (ValueError, OverflowError):
            given = np.array([None])
        if given.dtype.kind not in "iu" or given.min(initial=0) < 0 or given.max(initial=0) > 255:
            raise HTTPException(400, "data must be whole numbers from 0 to 255")
        pixels = given.astype(np.uint8)
    if pixels.size != math.prod(dimensions):
        raise HTTPException(400, f"shape {dimensions} wants {math.prod(dimensions)} values, got {pixels.size}")
    images = pixels.reshape(dimensions[0], height, width, channels)
    return [image[..., 0] if channels == 1 else image for image in images]


def _files(tensor: dict[str, Any], rest: bytes) -> list[bytes]:
    dimensions = _dimensions(tensor)
    data = _binary(tensor, rest)
    files: list[bytes] = []
    if data is not None:
        place = 0
        while place < len(data) and len(files) <= MAX_IMAGES:  # each after its length
            start = place + 4
            place = start + int.from_bytes(data[place:start], "little")
            if len(data) < place:
                raise HTTPException(400, "an element of a BYTES tensor is cut off")
            files.append(data[start:place])
    else:
        given = tensor.get("data")
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            raise HTTPException(400, "data of a BYTES tensor must be strings: base64 of image files")
        try:
            files = [base64.b64decode(item, validate=True) for item in given]
        except (binascii.Error, ValueError) as error:
            raise HTTPException(400, f"data is not base64: {error}") from None
    if len(files) != math.prod(dimensions):
        raise HTTPException(400, f"shape {dimensions} wants {math.prod(dimensions)} elements, got {len(files)}")
    return files


def _response(name: str, asked: dict[str, Any], questions: list[Question]) -> Response:
    records = [question.result.record for question in questions]
    values: dict[str, list[Any]] = {
        "is_adversarial": [record.verdict == "adversarial" for record in records],
        **{key: [getattr(record, key) for record in records] for key in ("p_value", "bits_per_dim", "score")},
    }
    everywhere = _flag(asked, "binary_data_output", False)
    wanted = asked.get("outputs") or [{"name": key} for key in OUTPUTS]
    outputs, binary = [], b""
    if not isinstance(wanted, list):
        raise HTTPException(400, "outputs must be a list")
    for output in wanted:
        key = output.get("name") if isinstance(output, dict) else None
        if key not in OUTPUTS:
            raise HTTPException(400, f"there is no output {key!r}; there are: {', '.join(OUTPUTS)}")
        made: dict[str, Any] = {"name": key, "datatype": OUTPUTS[key], "shape": [len(records)]}
        if _flag(output, "binary_data", everywhere):
            data = np.array(values[key], TYPES[OUTPUTS[key]]).tobytes()
            made["parameters"] = {"binary_data_size": len(data)}
            binary += data
        else:
            made["data"] = values[key]
        outputs.append(made)
    answer: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": outputs}
    if isinstance(asked.get("id"), str):
        answer["id"] = asked["id"]
    if not binary:
        return JSONResponse(answer)
    header = json.dumps(answer).encode()
    return Response(header + binary, media_type="application/octet-stream", headers={LENGTH: str(len(header))})


def _flag(holder: dict[str, Any], name: str, default: bool) -> bool:
    parameters = holder.get("parameters")
    return bool(parameters.get(name, default)) if isinstance(parameters, dict) else default
