"""How fast, as ratios that are all taken in the same run: scoring, purification, sampling, screening.

    python benchmarks/speed.py [--quick] [--json FILE] [--device cuda]
    python benchmarks/speed.py --render                    # writes results/speed.md from results/speed.json again

Prints every ratio as it is measured. Without --quick they are also written to speed.json and speed.md in results, with
the machine that they were measured on, and how the cost grows to growth.svg. What is compared is timed in turns, and
the median of the turns counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import screening
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixeldefend import Detector, load_detector
from pixeldefend.densities import (
    Autoregressive,
    GridDistribution,
    PixelCNNPlusPlus,
    kernels,
    logistic_mixture,
    pixelcnnpp,
    pixelcnnpp_blocks,
)
from pixeldefend.densities.layers import MaskedConv2d, ShiftedConv2d
from pixeldefend.detectors.backends import PRECISION, on_backend
from pixeldefend.markdown import table
from pixeldefend.purification import purify
from pixeldefend.scores import Evidence, excess_surprisal
from pixeldefend.threads import in_threads

RESULTS = Path(__file__).parent / "results"


class FullKernel(nn.Conv2d):
    """What a `ShiftedConv2d` computes, as it is mostly written: an odd kernel around the output, with zeros in it."""

    def __init__(self, conv: ShiftedConv2d) -> None:
        left, _, top, _ = conv.pads
        kh, kw = conv.kernel_size
        a, b = max(top, kh - 1 - top), max(left, kw - 1 - left)
        size = (2 * a + 1, 2 * b + 1)
        super().__init__(conv.in_channels, conv.out_channels, size, conv.stride, padding=(a, b))
        mask = torch.zeros_like(self.weight)
        rows, columns = slice(a - top, a - top + kh), slice(b - left, b - left + kw)
        mask[:, :, rows, columns] = 1
        with torch.no_grad():
            self.weight[:, :, rows, columns] = conv.kernel()
            assert self.bias is not None
            assert conv.bias is not None
            self.bias.copy_(conv.bias)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.contiguous(), self.weight * self.mask, self.bias, self.stride, self.padding)


def straightforward(density: Autoregressive) -> Autoregressive:
    """Returns the same density with full, masked kernels, in NCHW."""
    other = copy.deepcopy(density)
    for module in list(other.modules()):
        for name, child in module.named_children():
            if isinstance(child, ShiftedConv2d):
                setattr(module, name, FullKernel(child))
    return other.eval()


@contextmanager
def torch_s_elu() -> Iterator[None]:
    """The activation as it is mostly written, and no compiled kernels."""
    blocks = pixelcnnpp_blocks
    fast, has_numba = (blocks.elu, blocks.concat_elu), kernels.has_numba
    kernels.has_numba = lambda: False  # type: ignore[assignment]
    pixelcnnpp.elu, blocks.elu, blocks.concat_elu = F.elu, F.elu, lambda x: F.elu(torch.cat([x, -x], 1))
    try:
        yield
    finally:
        pixelcnnpp.elu, blocks.elu, blocks.concat_elu = fast[0], *fast
        kernels.has_numba = has_numba


@torch_s_elu()
def score_straightforwardly(density: Autoregressive, x: Tensor) -> Tensor:
    """Excess surprisal, with the whole table of 256 masses a site in memory."""
    conditionals = density.conditionals(x)
    assert isinstance(conditionals, GridDistribution)
    vars(conditionals).pop("known", None)  # what was computed for the channels is computed again
    surprisal = -conditionals.log_prob(x)
    mean, variance = GridDistribution.surprisal_moments(conditionals)
    return (surprisal - mean).flatten(1).sum(1) / variance.flatten(1).sum(1).sqrt()


def seconds(*functions: Callable[[], Any], turns: int) -> list[float]:
    """Returns the median time of each, called in turns, after one call each that does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(turns + 1):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def scoring(name: str, density: Autoregressive, n: int, turns: int) -> list[dict[str, Any]]:
    """Images a second, scored by excess surprisal on every backend. Returns a row each."""
    density, naive = density.eval(), straightforward(density)
    x = pixels(density, n)
    backends = backends_for(density)
    functions: list[Callable[[], Tensor]] = [lambda: score_straightforwardly(naive, x)]
    for backend in backends:
        fast = on_backend(density, backend)

        def score(part: Tensor, fast: Any = fast) -> Tensor:
            return excess_surprisal(Evidence(density, part, fast=fast))

        functions.append(lambda score=score, backend=backend: torch.cat(as_detectors_do(score, x, backend)))  # type: ignore[misc]
    with torch.inference_mode():
        expected = functions[0]()
        for backend, function in zip(backends, functions[1:], strict=True):
            tolerance = dict(rtol=1e-3, atol=0.02) if PRECISION[backend] == "float32" else dict(rtol=0.1, atol=1)
            assert torch.allclose(function(), expected, **tolerance), backend
        theirs, *ours = seconds(*functions, turns=turns)
    what = (
        f"scoring {n} images, {name}, {{}}: against full masked kernels in NCHW, {{:.0f}} and {n / theirs:.0f} a second"
    )
    return [
        dict(name=what.format(backend, n / took), ratio=theirs / took, goal=3.0, unit="times as fast")
        for backend, took in zip(backends, ours, strict=True)
    ]


def peak(name: str, detector: Detector, n: int, turns: int) -> list[dict[str, Any]]:
    """What the detector's own statistic costs, and the share of the machine's convolution peak that scoring reaches.

    Both are in the same precision. Returns two rows for every backend.
    """
    operations: list[int] = []  # several threads append to it

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        kh, kw = module.kernel_size
        places = (output if isinstance(module, nn.Conv2d) else inputs[0])[0, 0].numel()
        share = module.mask.float().mean().item() if isinstance(module, MaskedConv2d) else 1  # zeros are no use
        operations.append(int(2 * len(output) * places * module.in_channels * module.out_channels * kh * kw * share))

    density = detector.density
    assert isinstance(density, Autoregressive)
    score = getattr(detector.score_, "ratio", detector.score_)
    networks = [density, *([score.network_] if hasattr(score, "network_") else [])]
    hooks = [
        module.register_forward_hook(count)  # type: ignore[arg-type]
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    x = pixels(density, n)
    conv = nn.Conv2d(256, 256, 3, padding=1).to(density.device, memory_format=torch.channels_last)
    y = torch.rand(32, 256, 32, 32).to(density.device, memory_format=torch.channels_last)
    with torch.inference_mode():
        detector.score_samples(x)
        for hook in hooks:
            hook.remove()

        def best(precision: str) -> Tensor:
            with torch.autocast(density.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                return conv(y)

        rows = []
        for backend in backends_for(density):
            precision = PRECISION[backend]
            runner, fast = detector.with_backend(backend), on_backend(density, backend)

            def network(fast: Any = fast, backend: str = backend) -> None:
                as_detectors_do(fast.parameters_of_sites, x, backend, detector.batch_size)

            ours, net, theirs = seconds(
                lambda runner=runner: runner.score_samples(x),  # type: ignore[misc]
                network,
                lambda precision=precision: best(precision),  # type: ignore[misc]
                turns=turns,
            )
            what = f"statistic {detector.statistic}, {name}, {backend}: time besides the network's"
            rows.append(dict(name=what, ratio=(ours - net) / net, goal=0.5, unit="of the network's (at most)"))
            highest = 2 * 32 * 32 * 32 * 256 * 256 * 9 / theirs
            what = (
                f"share of torch's convolution peak ({highest / 1e9:.0f} GFLOP/s in {precision}) that scoring reaches"
            )
            ratio = sum(operations) / ours / highest
            rows.append(dict(name=f"{what}, {name}, {backend}", ratio=ratio, goal=0.5, unit="of the peak"))
    return rows


def moments(name: str, density: Autoregressive, n: int, turns: int) -> dict[str, Any]:
    """The moments of the surprisal by a compiled kernel, against torch's tables."""
    with torch.inference_mode():
        conditionals = density.conditionals(pixels(density, n))
        parameters = [conditionals.logits, conditionals.means, conditionals.log_scales]
        flat = [t.expand(*conditionals.batch_shape, -1).flatten(0, -2) for t in parameters]

        def tables() -> None:
            for block in zip(*(t.split(conditionals.SITES_PER_BLOCK) for t in flat), strict=True):
                logistic_mixture._surprisal_moments(*block)

        ours, theirs = seconds(conditionals.surprisal_moments, tables, turns=turns)
    what = f"mean and variance of the surprisal, {name}: compiled, against torch's tables"
    return dict(name=what, ratio=theirs / ours, goal=2.0, unit="times as fast")


def as_detectors_do(function: Callable[[Tensor], Any], x: Tensor, backend: str, batch_size: int = 16) -> list[Any]:
    """Calls a function with batches: on a CPU in several threads, unless the backend has threads of its own."""
    parts = x.split(batch_size)
    return list(map(function, parts) if x.is_cuda or backend == "openvino" else in_threads(function, parts))


def pixels(density: Autoregressive, n: int) -> Tensor:
    """Returns (n, C, H, W) random images."""
    return (torch.randint(0, 256, (n, *density.event_shape)) / 255).to(density.device)


def backends_for(density: Autoregressive) -> list[str]:
    return [backend for backend in PRECISION if backend != "openvino" or density.device.type == "cpu"]


def a_pass_a_site(density: Autoregressive, x: Tensor, turns: int) -> float:
    """Seconds that as many passes take as there are sub-pixels, reckoned from one."""
    with torch.inference_mode():
        return seconds(lambda: density.conditionals(x), turns=turns)[0] * x[0].numel()


def purification(name: str, density: Autoregressive, n: int, turns: int, goal: float) -> dict[str, Any]:
    x = noisy(density, n)
    (ours,) = seconds(lambda: purify(x, 16, density), turns=turns)
    ratio = a_pass_a_site(density, x.to(density.device) / 255, turns) / ours
    what = f"purification of {n} at eps 16, {name}: against a pass a sub-pixel, {ours / n:.2f} s an image"
    return dict(name=what, ratio=ratio, goal=goal, unit="times as fast")


def against_the_cached_loop(name: str, density: Autoregressive) -> dict[str, Any]:
    x = noisy(density, 1)
    ours, cached = seconds(lambda: purify(x, 16, density), lambda: purify(x, 16, density, method="cached"), turns=1)
    what = f"purification of 1 at eps 16, {name}: against the cached loop"
    return dict(name=what, ratio=cached / ours, goal=4.0, unit="times as fast")


def sampling(name: str, density: Autoregressive, n: int, turns: int) -> dict[str, Any]:
    (ours,) = seconds(lambda: density.sample(n), turns=turns)
    x = pixels(density, n)
    what = f"sampling {n}, {name}: against a pass a sub-pixel, {ours / n:.2f} s an image"
    return dict(name=what, ratio=a_pass_a_site(density, x, turns) / ours, goal=50.0, unit="times as fast")


def noisy(density: Autoregressive, n: int) -> Tensor:
    """Returns (n, C, H, W) uint8: samples of the density, attacked by noise of up to 8."""
    x = (255 * density.sample(n)).cpu()
    return (x + torch.randint(-8, 9, x.shape)).clamp(0, 255).to(torch.uint8)


def one_image(turns: int) -> list[dict[str, Any]]:
    """Milliseconds of `is_adversarial` of one image, after the first call. Returns a row for every backend."""
    image = torch.randint(0, 256, (1, 28, 28)).to(torch.uint8)
    rows = []
    for backend in PRECISION:
        detector = load_detector("fashion-mnist", backend=backend)
        (ours,) = seconds(lambda detector=detector: detector.is_adversarial(image), turns=turns)  # type: ignore[misc]
        name = f"one image, is_adversarial, fashion-mnist, {backend}"
        rows.append(dict(name=name, ratio=1000 * ours, goal=15.0, unit="ms (at most)"))
    return rows


def milliseconds(density: Autoregressive, x: Tensor, backend: str, batch_size: int) -> float:
    """Of scoring images."""
    fast = on_backend(density, backend)

    def score(part: Tensor) -> Tensor:
        return excess_surprisal(Evidence(density, part, fast=fast))

    with torch.inference_mode():
        return 1000 * seconds(lambda: as_detectors_do(score, x, backend, batch_size), turns=3)[0]


def growth(path: Path) -> None:
    """Draws how the time to score an image grows with the batch, the image, the net, and fewer threads."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    threads = torch.get_num_threads()
    base = dict(batch=16, side=32, filters=32, threads=threads)
    panels: list[tuple[str, str, tuple[int, ...]]] = [
        ("batch", "images at once", (1, 2, 4, 8, 16, 32, 64)),
        ("side", "height and width, pixels", (8, 16, 32, 64, 128)),
        ("filters", "filters", (16, 32, 64, 128)),
        ("threads", "threads, 64 images", tuple(sorted({1, 2, 4, 8, 16, threads} & set(range(threads + 1))))),
    ]
    figure, axes = pyplot.subplots(1, 4, figsize=(12, 2.8), sharey=True, layout="constrained")
    for axis, (what, title, values) in zip(axes, panels, strict=True):
        found: dict[str, list[float]] = {backend: [] for backend in PRECISION}
        for value in values:
            case = {**base, what: value}
            n = {"batch": case["batch"], "threads": 64}.get(what, 4)
            torch.set_num_threads(case["threads"])
            shape = (3, case["side"], case["side"])
            density = PixelCNNPlusPlus(shape, filters=case["filters"], blocks=1, scales=1, mixtures=5).eval()
            x = torch.randint(0, 256, (n, *shape)) / 255
            for backend in PRECISION:
                size = 16 if what == "threads" else n
                found[backend].append(milliseconds(density, x, backend, size) / n)
        for backend, times in found.items():
            axis.plot(values, times, marker="o", markersize=3, label=backend)
        axis.set(xscale="log", yscale="log", xlabel=title, xticks=values, xticklabels=values)
        torch.set_num_threads(threads)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms an image")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def screened(files: int, few: int, many: int) -> list[dict[str, Any]]:
    """Screening PNG files against scoring their tensors, and the memory that it takes. Returns a row each."""
    found = screening.measure(files, "float32")
    what = f"screening {files:,} PNG files, {found['files_a_second']} a second with start-up, against scoring alone"
    peaks = screening.memory(few, many)
    memory = f"peak memory of screening {many:,} files ({peaks[1]:.0f} MiB) against {few:,} ({peaks[0]:.0f} MiB)"
    return [
        dict(
            name=what,
            ratio=found["share_of_scoring"],
            goal=0.9,
            unit="of its images a second",
            files_a_second=found["files_a_second"],
        ),
        dict(name=memory, ratio=peaks[1] / peaks[0], goal=1.1, unit="times as much (at most)"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="under two minutes: smaller batches, fewer rows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--files", type=int, default=10_000, help="of which screening is measured")
    parser.add_argument("--render", action="store_true", help="measure nothing: write the table again")
    arguments = parser.parse_args()
    if arguments.render:
        render()
        return
    torch.manual_seed(0)
    shipped = {name: load_detector(name, device=arguments.device) for name in ("fashion-mnist", "cifar10")}
    turns = 1 if arguments.quick else 3
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(f"{row['ratio']:8.2f} {row['unit']:14} (goal {row['goal']:g})  {row['name']}", flush=True)

    for row in one_image(turns=20):
        add(row)
    for name, detector in shipped.items():
        assert isinstance(detector, Detector)
        density = detector.density
        assert isinstance(density, Autoregressive)
        for row in (*scoring(name, density, 64, turns), *peak(name, detector, 64, turns)):
            add(row)
        add(moments(name, density, 64, turns))
        add(purification(name, density, 1, turns, goal=30.0))
        add(sampling(name, density, 1, turns))
        if not arguments.quick:
            add(against_the_cached_loop(name, density))
            add(purification(name, density, 64, 1, goal=20.0))
            add(sampling(name, density, 64, 1))
    if not arguments.quick:
        large = PixelCNNPlusPlus((3, 32, 32), filters=160, blocks=5, mixtures=10).to(arguments.device)
        what = "160 filters, 5 blocks, 10 logistics"
        for row in scoring(what, large, 4, 1):
            add(row)
        for row in screened(arguments.files, arguments.files // 10, 10 * arguments.files):
            add(row)
        growth(RESULTS / "growth.svg")
        machine = dict(machine=machine_name(arguments.device), torch=torch.__version__, note="")
        (RESULTS / "speed.json").write_text(json.dumps(dict(**machine, rows=rows), indent=1) + "\n")
        render()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def render() -> None:
    """Writes results/speed.md from results/speed.json."""
    found = json.loads((RESULTS / "speed.json").read_text())
    (RESULTS / "speed.md").write_text(markdown(found))


def markdown(found: dict[str, Any]) -> str:
    """Returns the machine, a note and the table."""
    rows = [(row["name"], f"{row['ratio']:.2f} {row['unit']}", f"{row['goal']:g}") for row in found["rows"]]
    text = f"`python benchmarks/speed.py` on {found['machine']}, with torch {found['torch']}.\n"
    note = f"{found['note']}\n" if found["note"] else ""
    return f"{text}{note}\n" + table(["what", "measured", "goal"], rows)


def machine_name(device: str) -> str:
    """Returns the name of the GPU, or that of the processor and the number of threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{cpu()}, {torch.get_num_threads()} threads"


def cpu() -> str:
    """Returns the name of the processor."""
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
