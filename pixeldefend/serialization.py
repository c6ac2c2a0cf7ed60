"""Model files: safetensors with JSON inside, verified by hash; and files written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .errors import ModelError


def check_writable(path: Path) -> None:
    """Raises OSError if path cannot be a file: for who would rather know before the work that it is to hold."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the block ends well, and goes if it does not:
    readers see the old file or the whole new one, never half of it. Links are followed; devices are written to as
    they are. Raises OSError, before anything is written, if path cannot be a file."""
    path = Path(os.path.realpath(path))
    check_writable(path)
    kwargs: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "surrogateescape"}
    if path.exists() and not path.is_file():
        with path.open(mode, **kwargs) as device:
            yield device
        return
    # not by `tempfile`, whose files only their owner reads: to give them the mode of others one would have to know the
    # umask, and so to change it for a moment, for all threads
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = temporary.open(mode.replace("w", "x"), **kwargs)
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes one safetensors file that holds the tensors, meta (plain JSON values) and a sha256 over both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"meta": json.dumps(meta), "sha256": _digest(tensors, json.dumps(meta))}
    with whole_file(path, "wb") as handle:
        handle.write(safetensors.torch.save(tensors, header))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the meta that `save_tensors` wrote. Raises ModelError, naming the file, if it was
    written by something else, is damaged, or was altered; FileNotFoundError if it is missing."""
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
    """Returns the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(tensors: dict[str, Tensor], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
