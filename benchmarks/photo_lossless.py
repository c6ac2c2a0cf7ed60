"""Compares the bits/dim of the density of photographs with lossless codes of the same files.

    python benchmarks/photo_lossless.py FOLDER ... [--limit N]

The files are lossless images, such as PNG. Bits/dim are an ideal code length; WebP and JPEG XL at effort 9 are files
with their headers. It needs the extra jxl. It writes results/photo_lossless.json.
"""

import argparse
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pillow_jxl  # noqa: F401 (Pillow then writes JPEG XL)
import torch
from PIL import Image

from pixeldefend.images import read_image
from pixeldefend.images.files import find_files
from pixeldefend.zoo import load_density

CODES: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    "JPEG XL": {"format": "JXL", "lossless": True, "effort": 9},
}
OUT = Path(__file__).parent / "results" / "photo_lossless.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--limit", type=int, help="files of each folder, evenly spread over their names")
    arguments = parser.parse_args()
    density = load_density("photo").requires_grad_(False)
    rows = []
    for folder in arguments.folders:
        files = sorted(path for path in find_files([folder]) if isinstance(path, str))
        if arguments.limit is not None and files:
            files = files[:: -(-len(files) // arguments.limit)]
        bits = np.array([lengths(density, read_image(path, convert=True)) for path in files])
        means = dict(zip(("ours", *CODES), bits.mean(0).tolist(), strict=True))
        shorter = {code: int((bits[:, 0] < bits[:, 1 + place]).sum()) for place, code in enumerate(CODES)}
        rows.append(
            {"folder": Path(folder).name, "images": len(files), "bits_per_dim": means, "ours_is_shorter": shorter}
        )
        print(rows[-1], flush=True)
    OUT.write_text(json.dumps(rows, indent=2) + os.linesep)


def lengths(density: Any, image: np.ndarray) -> list[float]:
    """Returns the bits for each sub-pixel: of the density, and of each code."""
    image = image if image.ndim == 3 else image[..., None].repeat(3, 2)
    found = [density.bits_per_dim(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255).item()]
    for options in CODES.values():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, **options)
        found.append(8 * len(buffer.getvalue()) / image.size)
    return found


if __name__ == "__main__":
    main()
