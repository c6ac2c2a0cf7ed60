"""Tables of what the registries hold: densities, statistics, attacks, data sets, corruptions, kinds of errors."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from pixeldefend.markdown import table

from .sources import ROOT, attack_title


def first_sentence(thing: Any) -> str:
    """Returns the first sentence of the docstring of a function, a class or what an instance's class says of it."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    documented = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    text = inspect.getdoc(documented) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<!\bal\.)(?<!\be\.g\.)(?<=\.) ", paragraph)[0]


def _named(registry: Mapping[str, Any]) -> str:
    """A row a sentence: entries that one function or class makes stand together."""
    named: dict[str, list[str]] = {}
    for name, entry in registry.items():
        named.setdefault(first_sentence(entry), []).append(f"`{name}`")
    return table(["name", "what it is"], [(", ".join(names), sentence) for sentence, names in named.items()])


def densities() -> str:
    """All densities."""
    from pixeldefend.densities import DENSITIES

    rows = [(f"`{name}`", f"`{made.__name__}`", first_sentence(made)) for name, made in DENSITIES.items()]
    return table(["name", "class", "what it is"], rows)


def statistics(which: str) -> str:
    """Statistics of one kind: plain, combined, expensive, or those that use the classifier or an alternative."""
    from pixeldefend.scores import ALTERNATIVE_SCORES, CLASSIFIER_SCORES, EXPENSIVE, SCORES, Combined, Fused

    combined = {name: score for name, score in SCORES.items() if isinstance(score, Combined | Fused)}
    kinds = {"combined": combined, "expensive": EXPENSIVE, "classifier": CLASSIFIER_SCORES}
    kinds["alternative"] = ALTERNATIVE_SCORES
    kinds["plain"] = {name: score for name, score in SCORES.items() if name not in combined | EXPENSIVE}
    return _named(kinds[which])


def attacks() -> str:
    """All presets of attacks on a classifier."""
    from pixeldefend.attacks import ATTACKS

    rows = []
    for name, attack in ATTACKS.items():
        budget = "the smallest that succeeds" if attack.eps is None else _budget(name, attack.eps)
        rows.append((f"`{name}`", attack_title(name), f"`{type(attack.make()).__name__}`", budget))
    return table(["name", "attack", "class", "budget"], rows)


def _budget(name: str, eps: float) -> str:
    return f"L2 {eps:g}" if "-l2" in name else f"Linf {255 * eps:.0f}/255"


def datasets() -> str:
    """All data sets that are found by name."""
    from pixeldefend.data import DATASETS

    return table(["name"], [(f"`{name}`",) for name in DATASETS])


def corruption_names() -> str:
    """All benign corruptions."""
    from pixeldefend.images.corruptions import CORRUPTIONS

    return _named(CORRUPTIONS)


def baselines() -> str:
    """Detectors that the benchmark knows by name, for comparison."""
    from pixeldefend.eval import BASELINES

    return _named(BASELINES)


def photo_baselines() -> str:
    """Detectors of photographs that the benchmark knows by name, for comparison."""
    from pixeldefend.eval import PHOTO_BASELINES

    return _named(PHOTO_BASELINES)


# what can be added -> the folder, what to write there, and the registry that gets a line
ADDITIONS = {
    "a density": ("pixeldefend/densities", "a file with a subclass of `Autoregressive`", "DENSITIES"),
    "a statistic": ("pixeldefend/scores", "a function of `Evidence`, in the file of its kind", "SCORES"),
    "a preprocessor": ("pixeldefend/preprocessing", "a file with a subclass of `Preprocessor`", "PREPROCESSORS"),
    "a benign corruption": ("pixeldefend/images/corruptions", "a function of a batch", "CORRUPTIONS"),
    "a history of photographs": ("pixeldefend/images/corruptions", "a function of a PIL image", "HISTORIES"),
    "a data set": ("pixeldefend/data", "nothing, if torchvision has it", "DATASETS"),
    "an attack on the classifier": ("attacks", "nothing, if foolbox has it", "ATTACKS"),
    "an attack that knows the detector": ("attacks/detector_aware", "a foolbox attack", "ADAPTIVE"),
    "a baseline": ("eval", "a function of data and classifier", "BASELINES"),
    "a baseline for photographs": ("eval/photos", "a function of classifier and photographs", "PHOTO_BASELINES"),
}


def additions() -> str:
    """What can be added by one function or file and one line, and where."""
    rows = []
    for what, (folder, write, registry) in ADDITIONS.items():
        where = [
            path
            for path in sorted(ROOT.glob("[pae]*/**/*.py"))
            if re.search(f"^{registry}\\b.* = ", path.read_text(), re.M)
        ]
        if where:
            rows.append((what, f"{write} (`{folder}/`)", f"`{registry}` in `{where[0].relative_to(ROOT)}`"))
    rows.append(
        ("a command", "a file with a function (`pixeldefend/cli/`)", "its registration in `pixeldefend/cli/main.py`")
    )
    return table(["to add", "write", "and add a line to"], rows)


def error_kinds() -> str:
    """All kinds of errors that records have."""
    from pixeldefend.screening.records import ERROR_KINDS

    return table(["kind", "meaning"], [(f"`{kind}`", meaning) for kind, meaning in ERROR_KINDS.items()])


def skip_reasons() -> str:
    """All reasons for which a search skips a path."""
    from pixeldefend.images.files import NOT_LOOKED_AT, SKIP_REASONS

    rows = [
        (f"`{reason}`", meaning, 2 if reason in NOT_LOOKED_AT else "unchanged")
        for reason, meaning in SKIP_REASONS.items()
    ]
    return table(["reason", "meaning", "exit status"], rows)


BLOCKS: tuple[Callable[..., str], ...] = (
    densities,
    statistics,
    attacks,
    datasets,
    corruption_names,
    baselines,
    photo_baselines,
    additions,
    error_kinds,
    skip_reasons,
)
