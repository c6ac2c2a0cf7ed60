"""The errors that an input, an option or a file causes.

Code looks at the type of an error and at its `kind`, never at its message.
"""

from __future__ import annotations


class PixelDefendError(ValueError):
    """The base of all errors that something outside of pixeldefend causes.

    Any other exception except an `OSError` is a bug of pixeldefend.

    Attributes:
        kind: A short name for records and metrics, such as "damaged" or "size".
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

    kind = "format"

    def __init__(self, message: str, kind: str = "format") -> None:
        super().__init__(message)
        self.kind = kind


# kind of an `ImageError` -> what it means
IMAGE_ERROR_KINDS = {
    "format": "the file is not an image, or its format is not supported",
    "damaged": "the file is truncated or damaged",
    "empty": "the file has no bytes",
    "too large": "the file has too many bytes, or the image has too many pixels, frames or parts",
    "mode": "the image is animated, translucent, 16-bit, CMYK or of another type that is not examined by default",
    "range": "an array or a tensor has values outside [0, 1]",
    "size": "no detector takes images of this size or of these colours",
}


class NoDetectorError(ImageError):
    """No detector takes the image.

    Args:
        message: The size of the image, and the sizes that the detectors take.
    """

    kind = "size"

    def __init__(self, message: str) -> None:
        super().__init__(message, "size")


class DataError(PixelDefendError):
    """A data set cannot be read or used."""

    kind = "data"


class ModelError(PixelDefendError):
    """A model file cannot be used, or a model returns NaN."""

    kind = "model"


class CalibrationError(PixelDefendError):
    """The calibration images do not allow the rate of false alarms that is asked for."""

    kind = "calibration"


class MissingExtraError(PixelDefendError, ModuleNotFoundError):
    """A package that belongs to an extra is missing.

    Args:
        module: The package that could not be imported.
        extra: The name of the extra.
    """

    kind = "missing extra"

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is missing; install it with: pip install 'pixeldefend[{extra}]'")
        self.module = module
        self.extra = extra

    # Ray pickles errors: unpickling would by default call the constructor, of two arguments, with the message alone
    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.module, self.extra)
