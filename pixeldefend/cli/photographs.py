"""pixeldefend benchmark, with photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from .output import note

if TYPE_CHECKING:
    from torch import nn

FOR_PHOTOGRAPHS = ("attacks", "limit", "seed", "corruptions", "adaptive", "cache", "log")


def on_photographs(
    detectors: dict[str, str],
    classifier: nn.Module,
    folder: Path,
    *,
    learn: Path | None,
    view: str | None,
    max_pixels: int,
    device: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Measures detectors of photographs.

    Args:
        detectors: The names of detectors, by their titles in the table.
        classifier: The classifier that is attacked.
        folder: The folder of the photographs.
        learn: The folder of the photographs for baselines, or None.
        view: The value of --view.
        max_pixels: The value of --max-pixels.
        device: Where the detectors run.
        options: Arguments of `run_benchmark`; those that say nothing about photographs are left out.

    Returns:
        The results of one detector, or the comparison of several. Of several, a baseline whose package is missing is
        left out, with a line that says so.

    Raises:
        MissingExtraError: If there is one detector, and its package is missing.
    """
    from .. import eval as evaluation
    from ..eval.photos import Learning, read_photographs

    limit, clean = options.get("limit"), options.get("clean")
    most = None if limit is None else max(limit, clean or 0)
    reading: dict[str, Any] = dict(view=view, max_pixels=max_pixels, log=note)
    learning = None if learn is None else Learning.of(read_photographs(learn, classifier, **reading))
    photographs = read_photographs(folder, classifier, limit=most, **reading)
    chosen = {name: value for name, value in options.items() if name in FOR_PHOTOGRAPHS} | {"learning": learning}
    found = {}
    for title, name in detectors.items():
        try:
            found[title] = evaluation.find_detector(
                name, classifier, learning, device=device, cache=options.get("cache")
            )
        except MissingExtraError as error:
            if len(detectors) == 1:
                raise
            note(f"{name} is left out: {error}")
    if len(detectors) > 1:
        return evaluation.compare_photographs(found, classifier, photographs, **chosen)
    return evaluation.run_photographs(found[next(iter(detectors))], classifier, photographs, **chosen)
