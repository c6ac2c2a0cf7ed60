"""How fast other libraries do what this one does: python benchmarks/peers.py [--images 64] [--environments FOLDER]

Every library is installed into a virtual environment of its own, or skipped with the reason. In the same run, on the
same images and with networks of the same size, it scores and purifies, and so does pixeldefend. Networks are not
trained, since that changes no time. Writes results/peers.json and results/peers.md.

- alibi-detect's `LLR` on TensorFlow: the likelihood ratio of two PixelCNN++.
- ART's `PixelDefend`: purification. It takes all conditionals from one pass over the attacked image. The paper's
  algorithm 1 takes those given the purified sub-pixels before.
- PixelCNN++ in PyTorch as it is mostly written: full masked kernels, a table of all values, and a pass a sub-pixel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "peers"
SHAPE = (32, 32, 3)
FILTERS, BLOCKS, SCALES, MIXTURES = 64, 2, 3, 5
FILTERS_OF_ALIBI = 48  # with which its network has as many parameters
EPS = 16
BFLOAT16 = "bfloat16"
RATIO, EXCESS, PURIFICATION = "likelihood ratio", "excess surprisal", "purification"
TURNS = 3
INSTALLED = "installed"  # a file in an environment that is complete


def least(function: Callable[[], Any], turns: int = TURNS) -> float:
    """Returns the least seconds of some calls, after one that does not count."""
    function()
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# -- in the environments of the others ---------------------------------------------------------------------------------


def alibi_detect(images: np.ndarray, attacked: np.ndarray) -> dict[str, float]:
    """Scores images by alibi-detect's LLR."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # which alibi-detect is written for
    import tensorflow as tf
    from alibi_detect.models.tensorflow import PixelCNN
    from alibi_detect.od import LLR

    def made() -> Any:
        return PixelCNN(
            SHAPE,
            num_resnet=BLOCKS,
            num_hierarchies=SCALES,
            num_filters=FILTERS_OF_ALIBI,
            num_logistic_mix=MIXTURES,
            receptive_field_dims=(3, 3),
            use_weight_norm=False,
        )

    threads = int(os.environ["OMP_NUM_THREADS"])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    detector = LLR(threshold=0.0, model=made(), model_background=made())
    x = images.astype(np.float32)
    weights = sum(int(np.prod(weight.shape)) for weight in detector.dist_s.network.trainable_weights)
    return {"parameters": weights, RATIO: least(lambda: detector.score(x, batch_size=16)) / len(x)}


def art(images: np.ndarray, attacked: np.ndarray) -> dict[str, float]:
    """Purifies an image by ART's PixelDefend, whose network here is one convolution: the time is that of its loop."""
    import torch
    from art.defences.preprocessor import PixelDefend
    from art.estimators.classification import PyTorchClassifier

    class Conditionals(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3 * 256, 1)

        def forward(self, x: Any) -> Any:
            return self.conv(x).unflatten(1, (3, 256)).softmax(2).movedim(2, -1).flatten(1)

    size = int(np.prod(SHAPE))
    network = PyTorchClassifier(
        torch.nn.Sequential(Conditionals()),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(3, 32, 32),
        nb_classes=256 * size,
        clip_values=(0.0, 1.0),
    )
    defence = PixelDefend(clip_values=(0.0, 1.0), eps=EPS, pixel_cnn=network)
    x = attacked.astype(np.float32) / 255
    return {PURIFICATION: least(lambda: defence(x))}


PEERS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], dict[str, float]], list[str]]] = {
    "alibi-detect": ("LLR of alibi-detect on TensorFlow", alibi_detect, ["alibi-detect[tensorflow]==0.13.*"]),
    "art": ("PixelDefend of ART, one pass", art, ["adversarial-robustness-toolbox==1.*", "torch", "numpy<2"]),
}


# -- here --------------------------------------------------------------------------------------------------------------


def ours(images: np.ndarray, attacked: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the times of pixeldefend, and those of PyTorch as it is mostly written."""
    import torch
    from speed import score_straightforwardly, straightforward, torch_s_elu

    from pixeldefend import Detector, load_detector
    from pixeldefend.densities import build
    from pixeldefend.purification import purify

    config = {"filters": FILTERS, "blocks": BLOCKS, "scales": SCALES, "mixtures": MIXTURES}
    p, q = (build({"model": "pixelcnnpp", "event_shape": (3, 32, 32), **config}).eval() for _ in range(2))
    x = torch.from_numpy(images).movedim(3, 1) / 255
    found: dict[str, float] = {"parameters": sum(weight.numel() for weight in p.parameters())}
    for what, alternative in ((RATIO, q), (EXCESS, None)):
        detector = Detector(p, statistic=what.replace(" ", "_"), alternative=alternative, fpr=0.1)
        detector.fit(x[:20], backends=[BFLOAT16])
        found[what] = least(lambda: detector.score_samples(x)) / len(x)  # noqa: B023
        fast = detector.with_backend(BFLOAT16)
        found[f"{what}, {BFLOAT16}"] = least(lambda: fast.score_samples(x)) / len(x)  # noqa: B023
    shipped = load_detector("cifar10").density
    found[PURIFICATION] = least(lambda: purify(torch.from_numpy(attacked), EPS, shipped))
    naive, naive_shipped = straightforward(p), straightforward(shipped)
    image = torch.from_numpy(attacked) / 255
    with torch.inference_mode(), torch_s_elu():
        # so many passes as there are sub-pixels take half a minute: one is timed
        one_pass = least(lambda: naive_shipped.conditionals(image), 5)
        scoring = least(lambda: [score_straightforwardly(naive, part) for part in x.split(16)], 1)
    return found, {EXCESS: scoring / len(x), PURIFICATION: one_pass * int(np.prod(SHAPE))}


def measured_elsewhere(name: str, environments: Path, file: Path) -> dict[str, float] | str:
    """Returns the times of another library, or the reason why there are none."""
    python = environments / name / "bin" / "python"
    try:
        if not (environments / name / INSTALLED).exists():
            subprocess.run([sys.executable, "-m", "venv", environments / name], check=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[name][2]], check=True)
            (environments / name / INSTALLED).touch()
        command = [python, "-P", __file__, "--measure", name, file]
        done = subprocess.run(command, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"cannot be installed: {error}"
    if done.returncode:
        return f"fails: {(done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]}"
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "pixeldefend" / "peers")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, file = arguments.measure
        with np.load(file) as given:
            print(json.dumps(PEERS[name][1](given["images"], given["attacked"])))
        return
    import torch
    from speed import noisy

    from pixeldefend import load_detector

    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    images = np.random.default_rng(0).integers(0, 256, (arguments.images, *SHAPE), np.uint8)
    attacked = noisy(load_detector("cifar10").density, 1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, images=images, attacked=attacked)
        others = {name: measured_elsewhere(name, arguments.environments, file) for name in PEERS}
    mine, plain = ours(images, attacked)
    found = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": arguments.images,
        "shape": list(SHAPE),
        "ours": mine,
        "peers": {**others, "pytorch": plain},
    }
    RESULTS.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    RESULTS.with_suffix(".md").write_text(rendered(found))
    print(rendered(found))


def rendered(found: dict[str, Any]) -> str:
    """Returns the results as Markdown."""
    from pixeldefend.markdown import table

    titles = {**{name: title for name, (title, _, _) in PEERS.items()}, "pytorch": "PyTorch as it is mostly written"}
    rows = []
    for name, times in found["peers"].items():
        if isinstance(times, str):
            rows.append((titles[name], times, "", "", ""))
            continue
        for task in (RATIO, EXCESS, PURIFICATION):
            for what in (task, f"{task}, {BFLOAT16}"):
                if task in times and what in found["ours"]:
                    own = found["ours"][what]
                    milliseconds = (f"{1000 * seconds:,.1f} ms" for seconds in (times[task], own))
                    rows.append((titles[name], what, *milliseconds, f"{times[task] / own:,.1f}"))
    return (
        "# Other libraries\n\n"
        f"`python benchmarks/peers.py` on {found['machine']}, {found['threads']} threads, with torch {found['torch']}, "
        f"{found['images']} images of 32 x 32 x 3.\n\n"
        + table(["library", "task", "an image", "pixeldefend", "times as fast"], rows, "llrrr")
    )


if __name__ == "__main__":
    main()
