"""The command line: pixeldefend screen, train, benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train a density or a classifier (needs the extra 'train').")
app.add_typer(train_app, name="train")

Data = Annotated[
    str, typer.Option("--data", help="fashion-mnist, mnist, cifar10, a folder of images, or an .npz with x (and y).")
]
DataDir = Annotated[Path, typer.Option(help="Where named data sets are kept, and downloaded to if absent.")]
Out = Annotated[Path, typer.Option(help="Folder for the model, metrics.csv and checkpoints.")]
Limit = Annotated[Optional[int], typer.Option(help="Train on the first N training images only.")]
Resume = Annotated[Optional[Path], typer.Option(help="Go on from this checkpoint (OUT/last.ckpt).")]
Precision = Annotated[str, typer.Option(help="32-true, bf16-mixed, ... as Lightning's Trainer takes it.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, gpu ...")]
Devices = Annotated[int, typer.Option(help="How many; more than one trains by DDP.")]


@train_app.command("density")
def train_density(
    data: Data,
    out: Out,
    model: Annotated[str, typer.Option(help="A name in pixeldefend.densities.DENSITIES.")] = "pixelcnnpp",
    set_: Annotated[
        list[str], typer.Option("--set", help="An argument of the model, NAME=JSON: --set filters=32.")
    ] = [],  # noqa: B006
    data_dir: DataDir = Path("data"),
    epochs: int = 8,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.")] = 200,
    ema: Annotated[float, typer.Option(help="Decay of the weights' moving average; 0 for none.")] = 0.999,
    clip: Annotated[float, typer.Option(help="Largest gradient norm.")] = 5.0,
    precision: Precision = "bf16-mixed",
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    seed: int = 0,
    limit: Limit = None,
    resume: Resume = None,
) -> None:
    """Train a density on clean images by maximum likelihood; writes OUT/density.safetensors and OUT/density.json."""
    from .datasets import load_dataset
    from .densities import build
    from .training import MaximumLikelihood, train

    images = load_dataset(data, data_dir)
    arguments = {name: json.loads(value) for name, _, value in (item.partition("=") for item in set_)}
    density = build({"model": model, "image_shape": tuple(images.train.x.shape[1:]), **arguments})
    options: dict[str, Any] = dict(
        epochs=epochs, batch_size=batch_size, seed=seed, ema=ema, clip=clip, precision=precision
    )
    metrics = train(
        MaximumLikelihood(density, learning_rate, warmup),
        images.train[:limit],
        images.fit,
        out=out,
        accelerator=accelerator,
        devices=devices,
        resume=resume,
        progress=sys.stderr.isatty(),
        **options,
    )
    recipe = dict(data=data, images=len(images.train[:limit]), learning_rate=learning_rate, warmup=warmup, **options)
    density.save(out / "density.safetensors", recipe=recipe, metrics=metrics)
    typer.echo(
        f"{out / 'density.safetensors'}: {metrics['bits_per_dim']:.3f} bits/dim on {len(images.fit)} held-out images"
    )


@train_app.command("classifier")
def train_classifier(
    data: Data,
    out: Out,
    data_dir: DataDir = Path("data"),
    width: Annotated[int, typer.Option(help="Channels of the first stage.")] = 32,
    blocks: Annotated[int, typer.Option(help="Residual blocks in each of the three stages.")] = 1,
    epochs: int = 8,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.")] = 200,
    precision: Precision = "bf16-mixed",
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    seed: int = 0,
    limit: Limit = None,
    resume: Resume = None,
) -> None:
    """Train a residual network on labelled images; writes OUT/classifier.safetensors."""
    from .classifiers import ResNet
    from .datasets import load_dataset
    from .training import Classification, train

    images = load_dataset(data, data_dir)
    if images.train.y is None:
        raise typer.BadParameter(f"{data} has no labels", param_hint="--data")
    classifier = ResNet(
        tuple(images.train.x.shape[1:]), classes=int(images.train.y.max()) + 1, width=width, blocks=blocks
    )
    options: dict[str, Any] = dict(epochs=epochs, batch_size=batch_size, seed=seed, precision=precision)
    metrics = train(
        Classification(classifier, learning_rate, warmup),
        images.train[:limit],
        images.fit,
        out=out,
        accelerator=accelerator,
        devices=devices,
        resume=resume,
        progress=sys.stderr.isatty(),
        **options,
    )
    recipe = dict(data=data, images=len(images.train[:limit]), learning_rate=learning_rate, warmup=warmup, **options)
    classifier.save(out / "classifier.safetensors", recipe=recipe, metrics=metrics)
    typer.echo(
        f"{out / 'classifier.safetensors'}: accuracy {metrics['accuracy']:.4f} on {len(images.fit)} held-out images"
    )


def main() -> None:
    app()


if __name__ == "__main__":
    main()
