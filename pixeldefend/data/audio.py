"""Audio files, and companding, which makes 8 bits per sample sufficient."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ParameterError
from ..serialization import whole_file

LEVELS = 256  # values of companded audio, as in the paper


def mu_law_encode(audio: Tensor, levels: int = LEVELS) -> Tensor:
    """Compands audio and rounds it, with the finest steps around silence.

    Args:
        audio: A tensor of any shape with values in [-1, 1].
        levels: The number of values to round to.

    Returns:
        A tensor of the same shape with values k / (levels - 1) in [0, 1].

    Raises:
        ParameterError: If a value lies outside [-1, 1].

    Reference:
        van den Oord et al. 2016, WaveNet, arXiv:1609.03499, section 2.2.
    """
    if audio.numel() and not audio.abs().max() <= 1:
        raise ParameterError(f"audio must lie in [-1, 1], got min {audio.min():.3g} and max {audio.max():.3g}")
    mu = levels - 1
    companded = audio.sign() * torch.log1p(mu * audio.abs()) / math.log1p(mu)
    return ((companded + 1) / 2 * mu).round() / mu


def mu_law_decode(x: Tensor, levels: int = LEVELS) -> Tensor:
    """Inverts `mu_law_encode`, up to its rounding.

    Args:
        x: A tensor of any shape with values in [0, 1].
        levels: The number of values that `mu_law_encode` rounded to.

    Returns:
        Audio of the same shape with values in [-1, 1].
    """
    mu = levels - 1
    companded = 2 * x - 1
    return companded.sign() * torch.expm1(companded.abs() * math.log1p(mu)) / mu


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads the first channel of a WAV file.

    Args:
        path: A PCM file of 8 or 16 bits a sample.

    Returns:
        The samples, (T,) float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        DataError: If the file is no such WAV file, or is damaged.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:  # the last without a word, where chunks overlap
        raise DataError(f"{path} is not a readable WAV file: {error}") from None
    if width not in (1, 2):
        raise DataError(f"{path} has {8 * width} bits per sample; wanted 8 or 16")
    data = data[: len(data) // (width * channels) * width * channels]
    samples = np.frombuffer(data, "<i2" if width == 2 else np.uint8)[::channels].astype(np.float32)
    return (samples / 32768 if width == 2 else (samples - 128) / 128), rate


def write_wav(path: str | Path, audio: np.ndarray, rate: int) -> None:
    """Writes a WAV file of one channel and 16 bits a sample.

    Args:
        path: The file to write.
        audio: The samples, (T,), clipped to [-1, 1].
        rate: The sample rate in Hz.
    """
    with whole_file(path, "wb") as whole, wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(audio, -1, 1) * 32767).round().astype("<i2").tobytes())
