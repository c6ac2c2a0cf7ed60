"""Model files (safetensors with JSON metadata and a hash), and files that are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import ModelError
from .paths import name_max, shortened


def check_writable(path: Path) -> None:
    """Checks that a file can be created, before the work whose result it will hold.

    Args:
        path: Where the file is to be.

    Raises:
        OSError: If the path is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file that replaces the one at `path` when the block ends without an error.

    Readers see either the old file or the complete new one. Until the block ends the new one is a temporary file in the
    same folder, which is deleted if the block fails. Symbolic links are followed. Devices are written to directly.

    Args:
        path: Where the file is to be.
        mode: "w" for text in UTF-8, in which invalid parts of file names are spelled out; "wb" for bytes.

    Yields:
        The open file.

    Raises:
        OSError: If the file cannot be written, which it names.
    """
    path = Path(path)
    kwargs: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    if path.exists() and not path.is_file() and not path.is_dir():
        with _naming(path, path), path.open(mode, **kwargs) as device:
            yield device
        return
    path = Path(os.path.realpath(path))
    check_writable(path)
    # `tempfile` makes files that only their owner can read; to widen their mode one has to know the umask, and the only
    # way to read the umask changes it for all threads
    token = f".{secrets.token_hex(8)}"
    temporary = path.with_name(shortened(f".{path.name}", name_max(path.parent) - len(token)) + token)
    with _naming(path, temporary):
        try:  # a signal may come as soon as the file is there
            with temporary.open(mode.replace("w", "x"), **kwargs) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the folder may be gone, or no longer be writable
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Lets the errors of a file name the file: those of writing name none, and others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def save_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes a safetensors file that holds tensors, metadata and a sha256 of both.

    Args:
        path: Where the file is to be.
        tensors: Tensors by name, on any device.
        meta: Plain JSON values.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"meta": json.dumps(meta), "sha256": _digest(tensors, json.dumps(meta))}
    with whole_file(path, "wb") as handle:
        handle.write(safetensors.torch.save(tensors, header))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file that `save_tensors` wrote.

    Args:
        path: The file.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        ModelError: If the file is not a model file of pixeldefend, is damaged, or was altered.
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}); restore it from a good copy") from None
    if not {"meta", "sha256"} <= header.keys():
        raise ModelError(f"{path} is a safetensors file, but not one that pixeldefend wrote")
    if header["sha256"] != _digest(tensors, header["meta"]):
        raise ModelError(f"{path} is damaged or was altered: its sha256 does not match; restore it from a good copy")
    return tensors, json.loads(header["meta"])


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(tensors: dict[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
