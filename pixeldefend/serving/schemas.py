"""The bodies of requests and answers, as pydantic models."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from ..errors import ParameterError
from ..screening import Record

MAX_IMAGES = 256  # a request
MAX_NAME = 1024  # characters


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise ParameterError("a string is required: base64 of an image file")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ParameterError(f"not base64: {error}") from None


Base64 = Annotated[
    bytes, BeforeValidator(_decoded), WithJsonSchema({"type": "string", "contentEncoding": "base64"}, mode="validation")
]


class ImageFile(BaseModel):
    """An image file, in base64."""

    name: str = Field("", max_length=MAX_NAME)
    data: Base64


class Images(BaseModel):
    """Several image files."""

    images: list[ImageFile] = Field(min_length=1, max_length=MAX_IMAGES)


@dataclass(kw_only=True)
class Verdict(Record):
    """The record of one image, as `pixeldefend screen` gives it.

    Attributes:
        id: The id of the verdict in the log.
        query_attack: Whether the image resembles several of the client's last images, as queries of a black-box attack
            do.
    """

    __pydantic_config__ = ConfigDict(json_schema_serialization_defaults_required=True)

    id: str | None = None
    query_attack: bool = False


@dataclass(kw_only=True)
class LoggedVerdict(Verdict):
    """A row of the log.

    Attributes:
        time: Seconds since 1970, UTC.
        feedback: The feedback on the verdict, or None.
    """

    time: float
    feedback: str | None = None


class Answer(BaseModel):
    """A record for every image that was sent, in order."""

    request_id: str
    records: list[Verdict]


class Pictures(BaseModel):
    """PNGs as data URIs, and labels if the service has a classifier for such images."""

    image: str
    surprisal: str
    purified: str
    difference: str
    p_value_purified: float
    label_before: int | None
    label_after: int | None


class Explanation(BaseModel):
    """A record and its pictures, which are null if there is no verdict or the image cannot be purified."""

    request_id: str
    record: Verdict
    pictures: Pictures | None


class Feedback(BaseModel):
    """The feedback of a person on a verdict."""

    id: str
    feedback: Literal["false_alarm", "attack", "missed", "clean"]


class Refusal(BaseModel):
    """The reason for which a request was refused."""

    error: str
    status: str = ""


REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "A key is required"},
    503: {"model": Refusal, "description": "The queue is full: try again after Retry-After seconds"},
    504: {"model": Refusal, "description": "No answer within the deadline"},
}
REFUSED_BODY: dict[int | str, dict[str, Any]] = {
    **REFUSED,
    400: {"model": Refusal, "description": "The body is not what its content type says"},
    413: {"model": Refusal, "description": "The body is too large"},
}
ONE_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}
ONE_FILE_OR_SEVERAL = {
    **ONE_FILE,
    "multipart/form-data": {"schema": _FORM},
    "application/json": {"schema": {"$ref": "#/components/schemas/Images"}},
}


def first_problem(error: ValidationError) -> str:
    """Returns the first problem of a request: its place and what was expected."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
