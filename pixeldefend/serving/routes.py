"""The routes of the service's own API, under /v1, of its metrics and of its page."""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, TypeAdapter, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from ..detectors import HistoryDetector
from ..errors import ImageError, PixelDefendError
from ..screening.records import to_storable
from .questions import File, Question
from .schemas import (
    MAX_IMAGES,
    MAX_NAME,
    ONE_FILE,
    ONE_FILE_OR_SEVERAL,
    REFUSED,
    REFUSED_BODY,
    REFUSED_QUERY,
    Answer,
    Explanation,
    Feedback,
    ImageList,
    LoggedVerdict,
    Pictures,
    Refusal,
    Verdict,
    first_problem,
    to_file,
)
from .service import Served, Service

PAGE = Path(__file__).parent / "page"
LOGGED = TypeAdapter(list[LoggedVerdict])
Model = TypeVar("Model", bound=BaseModel)

router = APIRouter()


@router.post(
    "/v1/screen",
    responses={
        **REFUSED_BODY,
        422: {"model": Answer | Refusal, "description": "No image can be screened; the records say why"},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "An image file as it is, several as a form, or JSON with base64",
            "content": ONE_FILE_OR_SEVERAL,
        }
    },
)
async def screen(request: Request) -> Answer:
    """Screen one image, sent as the body, or up to 256 images, sent as a form or as JSON.

    The answer has a record for each image, in order. If an image cannot be screened, its record says why. The status is
    then 200 if another image can be screened, and 422 if none can.
    """
    files = await _files(request)
    questions = await service_of(request).screen(files, **sender(request))
    answer = Answer(request_id=request.state.request_id, records=[Verdict(**q.answer()) for q in questions])
    note_verdicts(request, questions)
    return _with_status(answer, questions)


@router.post(
    "/v1/explain",
    responses={**REFUSED_BODY, 422: {"model": Explanation | Refusal, "description": "The image cannot be screened"}},
    openapi_extra={"requestBody": {"required": True, "description": "An image file", "content": ONE_FILE}},
)
async def explain(
    request: Request,
    eps: Annotated[int, Query(ge=0, le=255)] = 16,
    name: Annotated[str, Query(max_length=MAX_NAME)] = "",
) -> Explanation:
    """Screen one image and explain its verdict by pictures.

    The pictures show the image, the surprisal of its pixels, the image purified within `eps` 8-bit steps, and the
    difference between the two images.
    """
    data = await request.body()
    question, found = await service_of(request).explain(name, data, eps=eps, **sender(request))
    pictures = None if found is None else Pictures(**found)
    answer = Explanation(request_id=request.state.request_id, record=Verdict(**question.answer()), pictures=pictures)
    note_verdicts(request, [question])
    return _with_status(answer, [question])


@router.get("/v1/detectors", responses=REFUSED)
async def detectors(request: Request) -> list[dict[str, Any]]:
    """List the detectors of this service: their names, the images that they take, statistics, thresholds and hashes.

    An image is flagged if its score is above `threshold`, which is the `alarm_rank`-th highest score of the calibration
    images. Both are null for a detector of photographs, since each history has a threshold of its own.
    """
    return [_described(one) for one in service_of(request).detectors.values()]


@router.get("/v1/verdicts", responses=REFUSED_QUERY)
async def verdicts(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> list[LoggedVerdict]:
    """List the last verdicts, the newest first."""
    rows = await to_thread(lambda: list(service_of(request).log.rows(limit=limit)))
    return LOGGED.validate_python([{**row, "path": row["path"] or ""} for row in rows])


@router.post(
    "/v1/feedback",
    responses={**REFUSED_BODY, 404: {"model": Refusal}, 409: {"model": Refusal}, 422: {"model": Refusal}},
)
async def feedback(request: Request, said: Feedback) -> Feedback:
    """Give feedback on a verdict.

    The feedback on a flagged image is `false_alarm` (the image is clean) or `attack` (it is attacked). The feedback on
    an image that is not flagged is `clean` or `missed` (it is attacked).
    """
    try:
        await to_thread(service_of(request).log.feedback, to_storable(said.id), said.feedback)  # it waits for the disk
    except KeyError:
        raise HTTPException(404, f"there is no verdict {said.id!r}") from None
    except PixelDefendError as error:
        raise HTTPException(409, str(error)) from None
    return said


@router.get("/v1/drift", responses=REFUSED)
async def drift(request: Request) -> dict[str, Any]:
    """Report for each detector whether the images of this service still look like its calibration images."""
    return service_of(request).drift.report()


@router.get("/metrics", responses={**REFUSED, 200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(request: Request) -> Response:
    """Give the metrics of this service in the format of Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Give the page for the browser."""
    return FileResponse(PAGE / "index.html")


def _described(one: Served) -> dict[str, Any]:
    detector = one.detector
    by_history = isinstance(detector, HistoryDetector)  # its offset_ judges no image
    return {
        "name": one.name,
        "sha256": one.provenance["detector_sha256"],
        "takes": detector.takes,
        "image_shape": one.image_shape,
        "score": getattr(detector, "statistic", None),
        "fpr": detector.fpr,
        "threshold": None if by_history else -float(detector.offset_),
        "calibration_images": len(detector.calibration_scores_),
        "alarm_rank": None if by_history else detector.rank_,
        "backend": getattr(detector, "backend", None),
    }


def service_of(request: Request) -> Service:
    """Returns the service of the application that a request came to."""
    service: Service = request.app.state.service
    return service


def sender(request: Request) -> dict[str, str]:
    """Returns the client and the id of a request, as arguments of `Service.screen`."""
    return {"client": request.state.client, "request": request.state.request_id}


def note_verdicts(request: Request, questions: list[Question]) -> None:
    """Counts the verdicts of a request, for its line in the log.

    Args:
        request: The request, whose state gets the counts.
        questions: The answered questions of the request.
    """
    verdicts = [question.record.verdict for question in questions]
    counts: dict[str, int] = {verdict: verdicts.count(verdict) for verdict in ("clean", "adversarial", "error")}
    request.state.verdicts = counts | {"query_attack": sum(question.query_attack for question in questions)}


def _with_status(answer: Model, questions: list[Question]) -> Model:
    """Returns the answer, with an error status if no image has a verdict."""
    if any(question.record.verdict != "error" for question in questions):
        return answer
    return JSONResponse(answer.model_dump(), 500 if any(question.failed for question in questions) else 422)  # type: ignore[return-value]


async def _files(request: Request) -> list[File]:
    """Returns the names and bytes of the images."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request)
    body = await request.body()
    if kind == "application/json":
        return await service_of(request).in_decoding_thread(_from_json, body)
    return [_named(request.query_params.get("name", ""), body)]


def _from_json(body: bytes) -> list[File]:
    try:
        listed = ImageList.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(400, f"not {{'images': [{{'name', 'data'}}]}}: {first_problem(error)}") from None
    return [to_file(item) for item in listed.images]


class _Form(MultiPartParser):
    """A parser that knows whether the form has come to its end."""

    complete = False

    def on_end(self) -> None:
        self.complete = True


async def _from_form(request: Request) -> list[File]:
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"us-ascii"):  # others give invalid Unicode, or decode slowly
        raise HTTPException(415, f"the charset of a form must be utf-8, got {charset.decode('latin-1')!r}")
    parser = _Form(request.headers, request.stream(), max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"not a form: {error.message}") from None
    try:
        files: list[File] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(_named(value.filename or "", await value.read()))
            elif name == "image":
                files.append(("", ImageError("the field 'image' is text, not a file: send it with a file name")))
    finally:
        await form.close()
    if not parser.complete:
        raise HTTPException(400, "the form is cut off: it has no end")
    if not files:
        raise HTTPException(400, "the form holds no file")
    if len(files) > MAX_IMAGES:
        raise HTTPException(400, f"at most {MAX_IMAGES} images a request, got {len(files)}")
    return files


def _named(name: str, data: bytes) -> File:
    if len(name) > MAX_NAME:
        return name[:MAX_NAME], ImageError(f"the name has {len(name)} characters; at most {MAX_NAME} are taken")
    return name, data
