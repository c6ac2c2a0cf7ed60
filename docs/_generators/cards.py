"""Model cards of the shipped weights, made of the JSON files beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pixeldefend.markdown import table

from .sources import ROOT

WEIGHTS = ROOT / "pixeldefend" / "weights"

# what the JSON files do not hold: the source of the images, and the terms of their use
DATA = {
    "fashion-mnist": {
        "title": "Fashion-MNIST",
        "content": "70,000 grey images of clothes, 28 x 28 pixels, in ten classes, from the catalogue of Zalando",
        "source": "<https://github.com/zalandoresearch/fashion-mnist> (Xiao, Rasul & Vollgraf 2017)",
        "terms": "MIT licence, by Zalando SE",
        "intended": "28 x 28 grey images like those of Fashion-MNIST: one centred piece of clothing on black",
        "flags": "images whose residuals and histograms look like those of perturbed images",
        "limits": [
            "Images of other sizes are refused.",
            "It is not made to find other content: few handwritten digits are flagged.",
            "Nearly every clean image is flagged after JPEG or WebP compression, blur or noise, and more than promised "
            "after a change of brightness, contrast or gamma.",
        ],
    },
    "cifar10": {
        "title": "CIFAR-10",
        "content": "60,000 colour photographs, 32 x 32 pixels, in ten classes. These models used a copy with "
        "49,923 training and 5,000 test images",
        "source": "<https://www.cs.toronto.edu/~kriz/cifar.html> (Krizhevsky 2009)",
        "terms": "no explicit licence. Its authors ask for a citation, and it is used for research. The photographs "
        "were collected from the web, and their owners hold the rights. Check whether your use is allowed",
        "intended": "32 x 32 colour photographs that were scaled down like those of CIFAR-10",
        "flags": "images whose residuals look like those of perturbed images, and images unlike nearly all of CIFAR-10",
        "untouched": "Most clean images are flagged after JPEG or WebP compression or a change of brightness, and "
        "nearly all after noise of one 8-bit step. `cifar10-jpeg` takes such images, except noisy ones.",
        "corrupted": "It does not flag uniform grey images. It may miss an attacked image that was compressed "
        "afterwards.",
        "limits": [
            "Images of other sizes are refused.",
            "On the whole CIFAR-10 the figures differ, because its images are split differently from those of the "
            "copy.",
        ],
    },
    "photographs": {
        "title": "Photographs",
        "content": "4,588 files: 3,925 of Imagenette's validation set, 437 files of 200 cameras, a few of them edited, "
        "100 of Urban100, 73 dark scenes, 30 of Unsplash and 23 of one scene by a phone. Each photograph was also "
        "resized, compressed, denoised and so on, by the generators of `pixeldefend.images.corruptions`",
        "source": "Imagenette's ten classes of ImageNet (Russakovsky et al. 2015), "
        "<https://github.com/drewnoakes/metadata-extractor-images>, <https://github.com/ianare/exif-samples>, Urban100 "
        "(Huang, Singh & Ahuja 2015), DICM and LIME (Lee, Lee & Kim 2013; Guo, Li & Ling 2017), "
        "<https://github.com/alicevision/dataset_monstree> and Unsplash",
        "terms": "drewnoakes' files may be used however one wishes; Unsplash's are under its licence. ImageNet's and "
        "Urban100's were collected from the web and are used for research. The others state no licence. The weights "
        "hold no photograph",
        "intended": "colour and grey images with both sides of at least 64 pixels",
        "flags": "images whose pixels deviate from their predictions as perturbed ones do",
        "limits": [
            "Images with a side below 64 pixels are refused.",
            "Images unlike nearly all training images have the history `unknown`. The false-alarm rate may not hold "
            "for them.",
            "The rate of false alarms differs between histories: `docs/results/false-alarms.md` has what was measured.",
            "An attacked image that was saved again as JPEG or lossy WebP is not found.",
        ],
    },
}
WARNING = (
    "An attacker who knows the model evades it, and the weights are public: `docs/results/attackers.md` has what was "
    "measured."
)


def _cards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(WEIGHTS.glob("*.json"))}


def _what(card: dict[str, Any]) -> str:
    if card["kind"] == "classifier":
        made = card["classifier"]
        return f"residual network of width {made['width']}, {made['classes']} classes"
    made, parameters = card["density"], card["parameters"]
    if made["model"] == "nelloc":
        return (
            f"NeLLoC of {made['layers']} layers, {made['width']} features and {made['mixtures']} logistics, with a "
            f"likelihood ratio of profiles that tells {len(card['ratio']['histories'])} histories apart"
        )
    statistic = parameters.get("statistic", parameters.get("score"))
    scales = f"{made['scales']} scale{'s' * (made['scales'] > 1)}"
    streams = f"{made['streams']} stream{'s' * (made['streams'] > 1)}"
    return f"PixelCNN++ with {scales}, {streams} and {made['mixtures']} logistics; its statistic is `{statistic}`"


def _metric(card: dict[str, Any]) -> str:
    metrics = card["metrics"]
    if "held_out_images" in metrics:
        return f"{metrics['held_out_bits_per_dim']:.3f} bits/dim on {metrics['held_out_images']:,} held-out images"
    images = f"on {metrics['test_images']:,} test images"
    if card["kind"] == "classifier":
        return f"{metrics['test_accuracy']:.1%} correctly classified {images}"
    return f"{metrics['test_bits_per_dim']:.3f} bits/dim {images}"


def _size(stem: str) -> str:
    return f"{(WEIGHTS / f'{stem}.safetensors').stat().st_size / 1e6:.1f} MB"


def _parameters(stem: str) -> str:
    from pixeldefend import load_classifier, load_detector

    name, _, kind = stem.rpartition("-")
    found = load_detector(name) if kind == "detector" else None
    learned = getattr(found, "ratio", getattr(found, "score_", None))  # the likelihood ratio, or what combines it
    learned = getattr(learned, "ratio", learned)
    modules = [load_classifier(name)] if found is None else [found.density, getattr(learned, "network_", learned)]
    return f"{sum(p.numel() for module in modules for p in module.parameters()):,}"


def models() -> str:
    """All shipped models."""
    rows = [
        (f"`{stem}`", _what(card), _metric(card), _parameters(stem), _size(stem)) for stem, card in _cards().items()
    ]
    return table(["model", "what it is", "measured", "parameters", "size"], rows)


def card(stem: str) -> str:
    """One model card: data and its terms, recipe, metrics, intended use and limits."""
    found = _cards()[stem]
    data = DATA[found["data"]]
    name = stem.removesuffix(f"-{found['kind']}")
    detector = found["kind"] == "detector"
    loader = f"load_{found['kind']}"
    lines = [
        f"The {found['kind']} is a {_what(found)}.",
        f"It has {_parameters(stem)} parameters. Its file has {_size(stem)}.",
        "",
        "```python",
        f"from pixeldefend import {loader}",
        "",
        f'{found["kind"]} = {loader}("{name}")',
        "```",
        "",
        "## Data and its terms",
        "",
        f"- **Data:** {data['title']}: {data['content']}.",
        f"- **Source:** {data['source']}.",
        f"- **Terms:** {data['terms']}.",
        "- **The weights** are under the MIT licence of pixeldefend, as far as the terms of the data allow.",
        "",
        "## Recipe",
        "",
        _pairs({**found["classifier" if not detector else "density"], **found["recipe"]}),
        "## Metrics",
        "",
        _pairs(found["metrics"] | ({"calibration_images": found["calibration"]["images"]} if detector else {})),
        "## Intended use",
        "",
    ]
    if detector:
        lines += [f"- It takes {data['intended']}. It flags {data['flags']}."]
        lines += [
            "- It serves to measure how well detection works, and as a starting point for your own detector. It is "
            "not a product."
        ]
        after = f", also after {_listed(found['corruptions'])}" if found.get("corruptions") else ""
        lines += [f"- The false-alarm rate holds for clean images like the calibration images{after}."]
    else:
        lines += [f"- It is the classifier that the benchmark attacks. It expects {data['intended']}."]
        lines += ["- It is small and was trained for minutes. It is not meant for real classification tasks."]
        lines += ["- It was not adversarially trained. Every attack of the benchmark fools it."]
    lines += ["", "## Limits", ""]
    kind = "corrupted" if found.get("corruptions") else "untouched"
    limits = [*data["limits"], *([data[kind]] if detector and kind in data else [])]
    lines += [f"- {limit}" for limit in limits if detector or limit.startswith(("Images", "On the"))]
    lines += [f"- {WARNING}"] if detector else []
    lines += ["", "## File", "", f"sha256 of `{stem}.safetensors`: `{found['sha256']}`. Loading verifies it."]
    return "\n".join(lines) + "\n"


def _listed(names: list[str]) -> str:
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} or {last}" if others else last


def _pairs(values: dict[str, Any]) -> str:
    shown = {key: "-" if value is None else value for key, value in values.items()}
    return table(["key", "value"], [(f"`{key}`", _short(value)) for key, value in shown.items()])


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a hash
        return f"`{value[:12]}`..."
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


BLOCKS: tuple[Callable[..., str], ...] = (models, card)
