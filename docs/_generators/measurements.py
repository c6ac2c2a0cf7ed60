"""Tables of what the scripts of `benchmarks/` measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pixeldefend.markdown import table

from .sources import attack_title, load, measured, percent, pick

NO_BREAK = "\N{NO-BREAK SPACE}"

BINARY = ("DNA", "Mushrooms", "NIPS-0-12", "binarized MNIST")
# a model -> how its name begins in likelihoods.json, the variant that the papers' tables hold
BINARY_MODELS = {"FVSBN": "FVSBN", "NADE": "NADE", "EoNADE": "EoNADE", "MADE": "MADE"}


def likelihoods() -> str:
    """Negative log-likelihoods of binary test sets, with the published ones in parentheses."""
    found = load("likelihoods")
    rows = []
    for data in BINARY:
        cells = [data]
        for model in BINARY_MODELS.values():
            row = next(r for r in found if r["data"] == data and r["model"].startswith(model))
            cells.append(f"{row['nll_nats']:.2f} ({row['published']:.2f})")
        rows.append(cells)
    return table(["test set, nats", *BINARY_MODELS], rows, "lrrrr")


def nll(data: str, *model: str) -> str:
    """One negative log-likelihood, in nats."""
    return f"{_likelihood(data, model)['nll_nats']:.2f}"


def bits(data: str, *model: str) -> str:
    """One likelihood of 32 x 32 colour images, in bits a sub-pixel."""
    return f"{_likelihood(data, model)['nll_nats'] / 3072 / 0.6931471805599453:.2f}"


def _likelihood(data: str, model: tuple[str, ...]) -> dict[str, Any]:
    return pick(load("likelihoods"), data=data.replace("_", " "), model=" ".join(model))


def family() -> str:
    """Every autoregressive model as a detector: means over the attacks."""
    found = load("eval/results/family/comparison.json")
    rows = []
    for name, run in found["detectors"].items():
        cells = [name, f"{run['bits_per_dim']:.2f}", f"{run['milliseconds']:.1f}"]
        for statistic in found["statistics"]:
            own = [row for row in run["rows"] if row["statistic"] == statistic]
            auroc, detected = (sum(row[key] for row in own) / len(own) for key in ("auroc", "tpr_at_fpr_0.05"))
            cells.append(f"{auroc:.3f} / {percent(detected)}")
        rows.append(cells)
    return table(["model", "bits/dim", "ms an image", *(f"`{name}`" for name in found["statistics"])], rows)


def purified(data: str, *budgets: str) -> str:
    """Accuracy of the shipped classifier on attacked images, as they are and purified."""
    found = [row for row in load("purification") if row["data"] == data]
    rows = []
    for attack in dict.fromkeys(row["attack"] for row in found):
        own = [pick(found, attack=attack, eps=int(eps)) for eps in ("0", *budgets)]
        rows.append([attack_title(attack), *(percent(row["accuracy"], 1) for row in own)])
    return table(["attack", "not purified", *(f"purified, eps {eps}" for eps in budgets)], rows)


def accuracy_purified(data: str, attack: str, eps: str) -> str:
    """One accuracy after purification, in per cent."""
    return f"{100 * pick(load('purification'), data=data, attack=attack, eps=int(eps))['accuracy']:.0f} %"


def hostile() -> str:
    """What became of hostile files in each engine."""
    found = load("hostile")
    names = {"local": "`pixeldefend screen`", "ray": "`--engine ray`", "service": "`pixeldefend serve`"}
    rows = [
        [
            names[name],
            f"{engine['records']:,}",
            *(str(engine[key]) for key in ("crashes", "hangs")),
            *(str(engine.get(key, "")) for key in ("missing", "repeated", "verdicts_that_differ")),
            f"{engine['seconds']:.0f}",
        ]
        for name, engine in found["engines"].items()
    ]
    head = ["engine", "records", "crashes", "hangs", "missing", "repeated", "other verdicts than `screen`", "seconds"]
    verdicts, kinds = (
        ", ".join(f"{n:,} {name}" for name, n in sorted(found[key].items(), key=lambda item: -item[1]))
        for key in ("verdicts", "kinds_of_error")
    )
    lines = [
        f"{found['machine']}. Made by `{found['made_by']}`.",
        f"Of {found['files']:,} files, {found['not_images']} are images neither by name nor by content.",
        f"Verdicts: {verdicts}.",
        f"Errors by kind: {kinds}.",
        "",
        table(head, rows, "lrrrrrrr"),
    ]
    return "\n".join(lines)


def ablation(name: str) -> str:
    """What the ingredients of a statistic are worth: AUROC and share detected, and clean images flagged, at 1 %."""
    found = load(name)
    attacks = list(found["rows"][0]["detected"])
    benign = list(found["rows"][0].get("flagged", {}))
    rows = []
    for row in found["rows"]:
        rates = (row["detected"][attack] for attack in attacks)
        cells = [f"{rate['auroc']:.3f} / {percent(rate['tpr_at_fpr_0.01'])}".replace(" ", NO_BREAK) for rate in rates]
        rows.append((row["variant"], *cells, *(percent(row["flagged"][corruption]) for corruption in benign)))
    titles = [*map(attack_title, attacks), *(f"clean, {corruption}" for corruption in benign)]
    return table(["variant", *titles], rows, "l" + "r" * len(titles))


def report(name: str) -> str:
    """What a benchmark script wrote, without its title, its headings a level lower."""
    text = measured(name, ".md").read_text()
    text = re.sub(r"\A# .*\n+", "", text)
    return re.sub(r"^#", "##", text, flags=re.MULTILINE).strip() + "\n"


BLOCKS: tuple[Callable[..., str], ...] = (
    likelihoods,
    nll,
    bits,
    family,
    purified,
    accuracy_purified,
    hostile,
    ablation,
    report,
)
