"""The service over HTTP: its own interface under /v1, the Open Inference Protocol under /v2, the page at /."""

from __future__ import annotations

import base64
import binascii
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ..calibration.conformal import rank
from .batching import Full
from .middleware import Limits
from .open_inference import protocol
from .service import Question, Service

PAGE = Path(__file__).parent / "page"
MAX_IMAGES = 256  # a request
LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]


class Named(BaseModel):
    """An image file, in base64."""

    name: str = Field("", max_length=1024)
    data: str


class Images(BaseModel):
    images: list[Named] = Field(min_length=1, max_length=MAX_IMAGES)


class Verdict(BaseModel):
    """The record of one image, as `pixeldefend screen` gives it, its id in the log, and whether it resembles several of
    the client's last images, as the queries of a black-box attack do."""

    id: str | None
    path: str
    verdict: Literal["clean", "adversarial", "error"]
    p_value: float | None
    bits_per_dim: float | None
    score: float | None
    detector: str | None
    sha256: str | None
    width: int | None
    height: int | None
    error: str | None
    query_attack: bool


class Answer(BaseModel):
    request_id: str
    records: list[Verdict]


class Pictures(BaseModel):
    """PNGs, as data URIs; labels if the service has a classifier."""

    image: str
    surprisal: str
    purified: str
    difference: str
    p_value_purified: float
    label_before: int | None
    label_after: int | None


class Explanation(BaseModel):
    request_id: str
    record: Verdict
    pictures: Pictures | None


class Feedback(BaseModel):
    id: str
    feedback: Literal["false_alarm", "attack", "missed", "clean"]


class Logged(BaseModel):
    """A row of the log."""

    id: str
    time: float
    verdict: str
    p_value: float | None
    bits_per_dim: float | None
    detector: str | None
    path: str | None
    error: str | None
    query_attack: bool
    feedback: str | None


class Refusal(BaseModel):
    error: str
    status: str = ""


REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "A key is wanted"},
    503: {"model": Refusal, "description": "The queue is full: come back after Retry-After seconds"},
    504: {"model": Refusal, "description": "No answer within the deadline"},
}
SENT: dict[int | str, dict[str, Any]] = {
    **REFUSED,
    400: {"model": Refusal, "description": "The body is not what its content type says"},
    413: {"model": Refusal, "description": "The body is too large"},
}
FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}
BODIES = {
    "required": True,
    "description": "An image file as it is, several as a form, or JSON with base64",
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {"schema": FORM},
        "application/json": {"schema": {"$ref": "#/components/schemas/Images"}},
    },
}


def create_app(
    service: Service,
    *,
    keys: dict[str, str] | None = None,
    max_bytes: int = 8 * 2**20,
    deadline: float = 30.0,
    any_host: bool = False,
) -> FastAPI:
    """Returns the ASGI application. keys: client's name -> key, None if none is needed. max_bytes: of a body. deadline:
    seconds to an answer. any_host: answer under whatever name; otherwise only under those of the loopback, so that no
    web page can reach a service on its reader's machine under a name of its own (DNS rebinding)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPIOffline(
        redoc_url=None,
        title="pixeldefend",
        description="Flags images that are too surprising under a density of clean ones.",
        version=version("pixeldefend"),
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(protocol)
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> JSONResponse:
        return _refusal(503, "the queue is full; come back later", {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    if not any_host:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK)
    # the outermost: it sees every request
    app.add_middleware(Limits, metrics=service.metrics, max_bytes=max_bytes, deadline=deadline, keys=keys)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        """With the model of a body that is read by hand."""
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Images" not in schemas:
            schema = Images.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {"Images": schema}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


router = APIRouter()


@router.post(
    "/v1/screen",
    responses={
        **SENT,
        422: {"model": Answer | Refusal, "description": "The image cannot be screened; the record says why"},
    },
    openapi_extra={"requestBody": BODIES},
)
async def screen(request: Request) -> Answer:
    """Screen one image, sent as the body, or up to 256, as a form or as JSON: a record each, in order. Of several, one
    that cannot be screened is an error record."""
    files, alone = await _files(request)
    questions = await _service(request).screen(files, **_who(request))
    _note(request, questions)
    answer = Answer(request_id=_request_id(request), records=[Verdict(**q.answer()) for q in questions])
    if alone and answer.records[0].verdict == "error":
        return JSONResponse(answer.model_dump(), 422)  # type: ignore[return-value]
    return answer


@router.post(
    "/v1/explain",
    responses={**SENT, 422: {"model": Explanation | Refusal, "description": "The image cannot be screened"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "An image file",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def explain(
    request: Request, eps: Annotated[int, Query(ge=0, le=255)] = 16, name: Annotated[str, Query(max_length=1024)] = ""
) -> Explanation:
    """Screen one image and show why: its surprisal, and what purification within eps 8-bit steps makes of it."""
    data = await request.body()
    question, pictures = await _service(request).explain(name, data, eps=eps, **_who(request))
    _note(request, [question])
    found = None if pictures is None else Pictures(**pictures)
    answer = Explanation(request_id=_request_id(request), record=Verdict(**question.answer()), pictures=found)
    if found is None:
        return JSONResponse(answer.model_dump(), 422)  # type: ignore[return-value]
    return answer


@router.get("/v1/detectors", responses=REFUSED)
async def detectors(request: Request) -> list[dict[str, Any]]:
    """What screens here: names, image shapes, scores, thresholds and hashes."""
    service = _service(request)
    return [
        {
            "name": Path(name).stem,
            "sha256": service.hashes[name],
            "image_shape": list(detector.density.event_shape or ()) if detector.density is not None else None,
            "score": detector.statistic,
            "fpr": detector.fpr,
            "threshold": -float(detector.offset_),
            "calibration_images": len(detector.calibration_scores_),
            "alarm_rank": rank(detector.fpr, len(detector.calibration_scores_), detector.confidence),
            "backend": detector.backend,
        }
        for name, detector in service.screener.detectors.items()
    ]


@router.get("/v1/verdicts", responses=REFUSED)
async def verdicts(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> list[Logged]:
    """The last verdicts, the newest first."""
    rows = await to_thread(lambda: list(_service(request).log.rows(limit=limit)))
    return [Logged(**row) for row in rows]


@router.post(
    "/v1/feedback", responses={**REFUSED, 404: {"model": Refusal}, 409: {"model": Refusal}, 422: {"model": Any}}
)
async def feedback(request: Request, said: Feedback) -> Feedback:
    """Mark a verdict: `false_alarm` (flagged but clean), `attack` (flagged and attacked), `missed` (not flagged but
    attacked), `clean` (confirmed)."""
    try:
        await to_thread(_service(request).log.feedback, said.id, said.feedback)  # it waits for the disk
    except KeyError:
        raise HTTPException(404, f"there is no verdict {said.id!r}") from None
    except ValueError as error:
        raise HTTPException(409, str(error)) from None
    return said


@router.get("/v1/drift", responses=REFUSED)
async def drift(request: Request) -> dict[str, Any]:
    """For each detector: do the images of this service still look like those that calibrated it?"""
    return _service(request).drift()


@router.get("/metrics", responses={**REFUSED, 200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(_service(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(PAGE / "index.html")


async def _files(request: Request) -> tuple[list[tuple[str, bytes]], bool]:
    """Returns names and bytes of the images sent, and whether it is one sent as the body."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "compressed bodies are not read")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        files = [((upload.filename or "")[:1024], await upload.read()) for upload in uploads]
        if not files:
            raise HTTPException(400, "the form holds no file")
        return files, False
    body = await request.body()
    if kind == "application/json":
        return await _service(request).apart(_from_json, body), False
    return [(request.query_params.get("name", "")[:1024], body)], True


def _from_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        listed = Images.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise HTTPException(400, f"not {{'images': [{{'name', 'data'}}]}}: {place} {first['msg']}") from None
    try:
        return [(item.name, base64.b64decode(item.data, validate=True)) for item in listed.images]
    except (binascii.Error, ValueError) as error:
        raise HTTPException(400, f"data is not base64: {error}") from None


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _who(request: Request) -> dict[str, str]:
    return {"client": request.state.client, "request": request.state.request_id}


def _request_id(request: Request) -> str:
    return str(request.state.request_id)


def _note(request: Request, questions: list[Question]) -> None:
    """For the line in the log."""
    kinds = [question.result.record.verdict for question in questions]
    counts: dict[str, Any] = {kind: kinds.count(kind) for kind in ("clean", "adversarial", "error")}
    request.state.verdicts = counts | {"query_attack": sum(question.query_attack for question in questions)}


def _refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": reason, "status": HTTPStatus(status).phrase}, status, headers)
