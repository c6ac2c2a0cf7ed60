"""pixeldefend sample: draws new images, texts or sounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ParameterError
from .options import Device
from .output import note, progress

if TYPE_CHECKING:
    from torch import Tensor

    from ..densities import Autoregressive

# what a density models -> the files that hold its samples; "" is standard output
SUFFIXES = {"text": ("", ".txt"), "images": (".png", ".npz"), "sequences": (".wav", ".npz"), "rows": (".npz",)}


def sample(
    density: Annotated[
        str,
        typer.Argument(
            help="The density: the path of a saved density or detector, or the name of a shipped one ({detectors})."
        ),
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="The number of samples.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write: .png or .npz for images, .wav or .npz for audio, .txt for text, .npz for rows. By "
            "default, text is printed."
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="The text that every sample continues.")] = "",
    temperature: Annotated[
        float, typer.Option(help="The temperature. Below 1, samples are more probable and vary less.")
    ] = 1.0,
    length: Annotated[
        int | None, typer.Option(min=1, help="The number of characters or samples of one text or sound.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="The size of the images, if the density models images of any size."),
    ] = None,
    rate: Annotated[int, typer.Option(min=1, help="The sample rate of a .wav file, in Hz.")] = 8000,
    seed: Annotated[int, typer.Option(help="The seed of the random numbers.")] = 0,
    device: Device = "cpu",
) -> None:
    """Draw new images, texts or sounds from a density."""
    import torch

    from ..densities import Autoregressive, SequenceModel
    from ..serialization import check_writable
    from ..zoo import load_density

    model = load_density(density, device=device)
    if not isinstance(model, Autoregressive):
        raise ParameterError(
            f"{density} is a {type(model).__name__}; this command cannot sample from it; call its method sample(n) "
            "in Python"
        )
    kind = _kind(model)
    if (suffix := "" if out is None else out.suffix.lower()) not in SUFFIXES[kind]:
        wanted = " or ".join(name for name in SUFFIXES[kind] if name)
        raise ParameterError(f"{density} models {kind}: --out must be a file {wanted}, got {out or 'none'}")
    if prompt and kind != "text":
        raise ParameterError(f"{density} models {kind}, which take no --prompt")
    if out is not None:
        check_writable(out)
    x = model.sample(
        n,
        generator=torch.Generator(device).manual_seed(seed),
        progress=lambda sites: progress(sites, "Sampling"),
        given=model.encode(prompt) if prompt and isinstance(model, SequenceModel) else None,
        temperature=temperature,
        length=length,
        size=size,
    ).cpu()
    if isinstance(model, SequenceModel) and kind == "text":
        _write_text(list(model.decode(x)), out)
    elif out is not None:
        _write(x, kind, model.levels, out, suffix, rate)
    if out is not None:
        note(f"{out}: {n} samples of {density}")


def _kind(model: Autoregressive) -> str:
    """Returns what the density models: a key of SUFFIXES."""
    from ..densities import SequenceModel

    if len(model.event_shape) == 3:
        return "images"
    if not isinstance(model, SequenceModel):
        return "rows"
    return "text" if model.vocabulary else "sequences" if model.levels == 256 else "rows"


def _write_text(texts: list[str], out: Path | None) -> None:
    from .output import opened

    with opened(out) as file:
        file.write("\n\n".join(texts) + "\n")


def _write(x: Tensor, kind: str, levels: int | None, out: Path, suffix: str, rate: int) -> None:
    """Writes samples on the grid of [0, 1], or real numbers, to a file."""
    import numpy as np
    import torch

    from ..data import mu_law_decode, write_wav
    from ..screening.figures import save_grid
    from ..serialization import whole_file

    if kind == "images":
        x = (255 * x).round() if levels is not None else (256 * x).floor().clamp(0, 255)
        x = x.to(torch.uint8).movedim(1, -1).squeeze(-1)
    if suffix == ".wav":
        write_wav(out, mu_law_decode(x).flatten().numpy(), rate)
    elif suffix == ".png":
        save_grid(x.numpy(), out)
    else:
        with whole_file(out, "wb") as file:
            np.savez_compressed(file, x=x.numpy())
