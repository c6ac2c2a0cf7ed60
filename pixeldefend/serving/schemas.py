"""The bodies of requests and answers, as pydantic models."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from ..errors import ImageError
from ..screening import Record
from .questions import File

MAX_IMAGES = 256  # a request
MAX_NAME = 1024  # characters
DATA_URI = re.compile("data:[^,]*;base64,", re.IGNORECASE)
STANDARD = bytes.maketrans(b"-_", b"+/")  # from the URL-safe alphabet


def from_base64(text: object) -> bytes:
    """Decodes base64 in any of its usual forms.

    Args:
        text: Base64 in its standard or its URL-safe alphabet, with or without white space, padding, and the beginning
            "data:...;base64," of a data URI.

    Returns:
        The bytes.

    Raises:
        ImageError: If the text is not base64.
    """
    if not isinstance(text, str):
        raise ImageError("a string is required: base64 of an image file")
    start = DATA_URI.match(text)
    try:
        data = b"".join(text[0 if start is None else start.end() :].encode("ascii").split()).translate(STANDARD)
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ImageError(f"not base64: {error}") from None


Base64 = Annotated[
    bytes,
    BeforeValidator(from_base64),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}, mode="validation"),
]


class ImageFile(BaseModel):
    """An image file, in base64.

    The base64 may hold white space, use the URL-safe alphabet, lack its padding, or be a data URI.
    """

    name: str = Field("", max_length=MAX_NAME)
    data: Base64


class Images(BaseModel):
    """Several image files."""

    images: list[ImageFile] = Field(min_length=1, max_length=MAX_IMAGES)


class ImageList(BaseModel):
    """`Images` before each image is read by `to_file`."""

    images: list[Any] = Field(min_length=1, max_length=MAX_IMAGES)


def to_file(item: Any) -> File:
    """Reads one item of `Images`.

    Args:
        item: What should be an `ImageFile`, as plain JSON values.

    Returns:
        The name and the bytes, or in their place the error of this image.
    """
    try:
        image = ImageFile.model_validate(item)
    except ValidationError as error:
        name = item.get("name") if isinstance(item, dict) else None
        return (name[:MAX_NAME] if isinstance(name, str) else ""), ImageError(first_problem(error))
    return image.name, image.data


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
    """PNGs as data URIs, and labels if the service has a classifier for such images.

    Attributes:
        surprisal: The surprisal of each pixel; None for images above 4 megapixels.
        brightest: The surprisal of the brightest colour in the picture of the surprisal, in nats.
        purified: The purified image; None for images above 16,384 pixels.
    """

    image: str
    surprisal: str | None
    brightest: float
    purified: str | None
    difference: str | None
    p_value_purified: float | None
    label_before: int | None
    label_after: int | None


class Explanation(BaseModel):
    """A record and its pictures, which are null if there is no verdict or the detector has no maps."""

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
REFUSED_QUERY: dict[int | str, dict[str, Any]] = {
    **REFUSED,
    422: {"model": Refusal, "description": "A parameter of the query has a wrong value"},
}
REFUSED_BODY: dict[int | str, dict[str, Any]] = {
    **REFUSED,
    400: {"model": Refusal, "description": "The body is not what its content type or its coding says"},
    413: {"model": Refusal, "description": "The body is too large, before or after decompression"},
    415: {
        "model": Refusal,
        "description": "The coding of the body is neither gzip nor deflate, or its charset not UTF-8",
    },
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


def first_problem(error: ValidationError | RequestValidationError) -> str:
    """Returns the first problem of a request: its place and what was expected."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return f"{place}: {reason}" if place else reason
