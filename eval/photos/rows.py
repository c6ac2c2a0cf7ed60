"""The rows of a benchmark on photographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ...attacks import ATTACKS
from ...calibration import conformal
from ...images.corruptions import HISTORIES, through_history
from ...images.corruptions.histories import SMALLEST_SOURCE
from ..metrics import promised_interval, rate
from .attacked import SAVED_AS, AttackedPhotographs, saved_again, still_misclassified
from .data import Photographs, read_photograph
from .judged import RATES, Judge, Judged, Said, detection

AS_IT_IS = "as it is"  # the file in the folder
LARGEST_SOURCE = 1024  # a larger side is cropped before a photograph gets a history


def attack_rows(
    attack: str,
    result: AttackedPhotographs,
    judge: Judge,
    clean: Mapping[str, Judged],
    attacked: Mapping[str, Judged],
) -> list[dict[str, Any]]:
    """Returns the rows for one attack, one for each statistic.

    Args:
        attack: A key of `ATTACKS`.
        result: The result of the attack.
        judge: What judged the images.
        clean: What each statistic says of the clean images.
        attacked: What each statistic says of the images that were attempted.
    """
    chosen, succeeded = result.succeeded, result.succeeded[result.attempted].numpy()
    base = {
        "attack": attack,
        "is_control": ATTACKS[attack].is_control,
        "attempted": int(result.attempted.sum()),
        "succeeded": int(succeeded.sum()),
        "linf_median": _median(result.linf[chosen]),
        "l2_median": _median(result.l2[chosen]),
        "model_calls": result.model_calls,
    }
    rows = []
    for name, everyone in attacked.items():
        rates = judge.rates[name]
        row = {**base, "statistic": name, **detection(clean[name], everyone[succeeded], rates)}
        rows.append(row | detection(clean[name], everyone, rates, "_all"))
    return rows


def resaved_rows(
    classifier: nn.Module, victims: Photographs, attacked: Mapping[str, AttackedPhotographs], judge: Judge
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Saves images with a loss, and judges the attacked ones that are still misclassified.

    Args:
        classifier: The classifier that was attacked.
        victims: The clean photographs.
        attacked: The results of the attacks, by attack.
        judge: What judges the images.

    Returns:
        A row for each attack, way of saving and statistic; and a row of false alarms for each way and statistic.
    """
    rows, alarms = [], []
    for how in SAVED_AS:
        clean = judge(saved_again(victims.x, how))
        alarms += flagged_rows(f"attacked view, {how}", clean, judge)
        for attack, result in attacked.items():
            fooling = result.succeeded.nonzero()[:, 0]
            if not len(fooling):
                continue
            files = list(saved_again([result.images[i] for i in fooling.tolist()], how))
            still = still_misclassified(classifier, files, victims.y[fooling]) | ATTACKS[attack].is_control
            said = judge(file for file, holds in zip(files, still.tolist(), strict=True) if holds)
            base = {"attack": attack, "saved_as": how, "is_control": ATTACKS[attack].is_control}
            base |= {"fooling": len(fooling), "still_fooling": int(still.sum())}
            for name, found in said.by.items():
                rows.append({**base, "statistic": name, **detection(clean.by[name], found, judge.rates[name])})
    return rows, alarms


def flagged_rows(what: str, said: Said, judge: Judge) -> list[dict[str, Any]]:
    """Returns the share of clean images that each statistic flags, with its 95 % interval.

    Args:
        what: The name of the images.
        said: What the detector says of them.
        judge: What judged them.
    """
    rows = []
    for name, found in said.by.items():
        row: dict[str, Any] = {"what": what, "images": len(found), "refused": said.refused, "statistic": name}
        for fpr in RATES:
            key = f"flagged_at_{fpr}"
            row |= dict.fromkeys((key, f"{key}_ci"))
            if len(found) and fpr in judge.rates[name]:
                row[key], row[f"{key}_ci"] = rate(int(found.flagged(fpr).sum()), len(found))
        rows.append(row)
    return rows


def false_alarm_rows(said: Said, judge: Judge) -> list[dict[str, Any]]:
    """Counts the false alarms of each statistic.

    Args:
        said: What the detector says of the clean images.
        judge: What judged them.

    Returns:
        A row for each statistic and rate: the observed rate, and the interval that the calibration promises.
    """
    rows = []
    for name, found in said.by.items():
        n = judge.sizes[name]
        for fpr in judge.rates[name]:
            observed, interval = rate(int(found.flagged(fpr).sum()), len(found))
            promised = promised_interval(conformal.rank(fpr, n), n, len(found))
            row = {"statistic": name, "fpr": fpr, "calibration_images": n}
            rows.append(row | {"observed": observed, "observed_ci": interval, "promised": promised})
    return rows


def histories(photographs: Photographs, seed: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields the name of each history and the files that it makes of the photographs of the folder.

    Photographs that are too small for a history are left out.

    Args:
        photographs: The photographs, in any view.
        seed: The seed of the histories.
    """
    yield AS_IT_IS, (path.read_bytes() for path in photographs.paths)
    for name in HISTORIES:
        yield name, _files_of(photographs, name, seed)


def _files_of(photographs: Photographs, name: str, seed: int) -> Iterator[bytes]:
    for index, path in zip(photographs.index.tolist(), photographs.paths, strict=True):
        image = Image.fromarray(read_photograph(path).permute(1, 2, 0).numpy())
        if min(image.size) >= SMALLEST_SOURCE:
            width, height = (min(side, LARGEST_SOURCE) for side in image.size)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            yield through_history(image.crop((left, top, left + width, top + height)), name, seed=seed * 2**20 + index)


def _median(distances: Tensor) -> float | None:
    return distances.median().item() if len(distances) else None
