"""What can be wrong with an input. Code looks at an error's type and `kind`, never at its message."""

from __future__ import annotations


class PixelDefendError(ValueError):
    """The base of every error that something outside of pixeldefend causes: an input, an option, a file.

    Any other exception but an `OSError` is a bug of pixeldefend.

    Attributes:
        kind: One of a few words for records and metrics, such as "damaged" or "size".
    """

    kind = "input"


class ParameterError(PixelDefendError):
    """An argument or an option has a value that it cannot have."""

    kind = "parameter"


class ImageError(PixelDefendError):
    """An image cannot be examined.

    Args:
        message: What is wrong, with the value, and what to do.
        kind: A key of `IMAGE_ERROR_KINDS`.
    """

    def __init__(self, message: str, kind: str = "format") -> None:
        super().__init__(message)
        self.kind = kind


# kind of an `ImageError` -> what it means
IMAGE_ERROR_KINDS = {
    "format": "it is not an image, or of a format that is not read",
    "damaged": "the file is truncated or damaged",
    "empty": "the file has no bytes",
    "too large": "the file has too many bytes or the image too many pixels",
    "mode": "its pixels are of a kind that is not examined: animated, translucent, 16-bit, CMYK",
    "size": "no detector takes images of its size or colours",
}


class NoDetectorError(ImageError):
    """No detector takes the image."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "size")


class DataError(PixelDefendError):
    """A data set cannot be read or used."""

    kind = "data"


class ModelError(PixelDefendError):
    """A model file is damaged or of another kind, or a model gives no numbers."""

    kind = "model"


class CalibrationError(PixelDefendError):
    """The calibration does not allow the promise that is asked of it."""

    kind = "calibration"


class MissingExtraError(PixelDefendError, ModuleNotFoundError):
    """A package is missing that one of the extras brings.

    Args:
        module: The package that could not be imported.
        extra: The name of the extra.
    """

    kind = "missing extra"

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is missing; install it with: pip install 'pixeldefend[{extra}]'")
        self.extra = extra
