"""Tables of what was measured on photographs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pixeldefend.images.corruptions import HISTORIES
from pixeldefend.markdown import table

from .sources import attack_title, load, percent, pick, results

DAY = 24 * 60 * 60  # seconds
RUN, FEW_RUN, NATIVE_RUN = "photographs", "photographs-few", "photographs-native"


def photo_false_alarms() -> str:
    """The share of clean photographs that the detector flags, by history."""
    rows = []
    for row in load("photo_false_alarms")["rows"]:
        made = HISTORIES.get(row["history"])
        what = str(made.__doc__).partition(". ")[0].rstrip(".") if made else "As it was found on the web, mostly a JPEG"
        shares = (f"{row[f'flagged_at_{fpr}']:.2%}" for fpr in (0.001, 0.01, 0.05))
        rows.append((f"`{row['history']}`", what, f"{row['images']:,}", *shares, percent(row["unknown"])))
    header = ["history", "what it is", "images", "flagged at 0.1 %", "at 1 %", "at 5 %", "unknown"]
    return table(header, rows, "llrrrrr")


def photo_false_alarms_estimated() -> str:
    """The share of clean photographs that the detector flags, by the history that their records name."""
    rows = []
    for row in load("photo_false_alarms")["by_estimated_history"]:
        shares = (f"{row[f'flagged_at_{fpr}']:.2%}" for fpr in (0.001, 0.01, 0.05))
        rows.append((f"`{row['history']}`", f"{row['images']:,}", *shares))
    return table(["history in the record", "images", "flagged at 0.1 %", "at 1 %", "at 5 %"], rows, "lrrrr")


def photo_detection(*attacks: str) -> str:
    """AUROC and shares of attacked photographs that the detector flags; all attacks unless some are named."""
    return _detection(results(RUN), attacks=attacks)


def photo_detection_few() -> str:
    """The same for attacks that take long, on fewer photographs."""
    return _detection(results(FEW_RUN))


def photo_detection_native() -> str:
    """The same for photographs that were attacked at their own size."""
    return _detection(results(NATIVE_RUN))


def _detection(found: dict[str, Any], attacks: tuple[str, ...] = ()) -> str:
    own = [row for row in found["rows"] if row["statistic"] == found["statistic"]]
    rows = []
    for row in [pick(own, attack=attack) for attack in attacks] or own:
        shares = (percent(row[f"tpr_at_fpr_{fpr}"]) for fpr in ("0.001", "0.01", "0.05"))
        rows.append((attack_title(row["attack"]), f"{row['succeeded']:,}", f"{row['auroc']:.3f}", *shares))
    return table(["attack", "images", "AUROC", "detected at 0.1 %", "at 1 %", "at 5 %"], rows, "lrrrrr")


def photo_resaved() -> str:
    """Shares of attacked photographs that still fool the classifier when saved again, and that are then flagged."""
    found = results(RUN)
    ways = {"jpeg-90": "JPEG 90", "webp-80": "WebP 80"}
    own = [row for row in found["resaved"] if row["statistic"] == found["statistic"]]
    rows = []
    for attack in dict.fromkeys(row["attack"] for row in own):
        cells: list[str] = []
        for way in ways:
            row = pick(own, attack=attack, saved_as=way)
            share = row["tpr_at_fpr_0.01"]
            cells += [f"{row['still_fooling']} of {row['fooling']}", "-" if share is None else percent(share)]
        rows.append((attack_title(attack), *cells))
    header = ["attack", *(title for way in ways.values() for title in (f"{way}: still fool", "detected at 1 %"))]
    return table(header, rows, "lrrrr")


def photo_lossless() -> str:
    """Bits/dim of the density and of lossless codes on the same files."""
    rows = []
    for row in load("photo_lossless"):
        bits = row["bits_per_dim"]
        cells = (f"{bits[name]:.3f}" for name in ("PNG", "WebP", "JPEG XL", "ours"))
        rows.append((f"`{row['folder']}`", str(row["images"]), *cells))
    return table(["photographs", "images", "PNG", "WebP", "JPEG XL", "`photo`"], rows, "lrrrrr")


def photo_ablation() -> str:
    """False alarms and detection of variants of the detector."""
    found = load("photo_ablation")
    rows = []
    for row in found["rows"]:
        alarms = (f"{row[name]:.1%}" for name in ("false_alarms", "worst_history"))
        rows.append((row["variant"], *alarms, *(percent(row["detected"][attack]) for attack in found["attacks"])))
    header = ["score", "false alarms", "in the worst history", *map(attack_title, found["attacks"])]
    return table(header, rows, "l" + "r" * (len(header) - 1))


def photo_speed() -> str:
    """Seconds and peak memory for one photograph of each size."""
    rows = []
    for row in load("photo_speed")["rows"]:
        cells = (f"{row[run]['seconds']:.1f} s, {row[run]['MiB']:,.0f} MiB" for run in ("verdict", "verdict and map"))
        rows.append((row["size"], *cells))
    return table(["size", "verdict", "verdict and map"], rows, "lrr")


def photographs_a_day(size: str) -> str:
    """How many photographs of a size the machine screens in a day, without heat maps."""
    row = pick(load("photo_speed")["rows"], size=size)
    return f"{round(DAY / row['verdict']['seconds'], -3):,.0f}"


def cores_for_a_million(size: str) -> str:
    """How many cores screen a million photographs of a size in a day, without heat maps."""
    found = load("photo_speed")
    row = pick(found["rows"], size=size)
    return str(math.ceil(1e6 * row["verdict"]["seconds"] / DAY * found["threads"]))


BLOCKS: tuple[Callable[..., str], ...] = (
    photo_false_alarms,
    photo_false_alarms_estimated,
    photo_detection,
    photo_detection_few,
    photo_detection_native,
    photo_resaved,
    photo_ablation,
    photo_lossless,
    photo_speed,
    photographs_a_day,
    cores_for_a_million,
)
