"""Draws three clips from a WaveNet: python benchmarks/sample_wavenet.py DENSITY OUT [--seconds 1]

DENSITY is what `benchmarks/likelihoods/run.py DATA --only digits/wavenet --keep RUNS` leaves in RUNS. It writes
OUT/clip-1.wav, clip-2.wav and clip-3.wav (8 kHz) and OUT/spectrograms.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pixeldefend.data import mu_law_decode, write_wav
from pixeldefend.densities import WaveNet, load

RATE = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("density", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    density = load(arguments.density)
    assert isinstance(density, WaveNet)
    arguments.out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(arguments.seed)
    clips = mu_law_decode(density.sample(3, length=int(RATE * arguments.seconds), generator=generator)).numpy()

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(2, len(clips), sharex=True, height_ratios=(1, 2))
    for i, clip in enumerate(clips):
        write_wav(arguments.out / f"clip-{i + 1}.wav", clip, RATE)
        wave, spectrogram = panels[:, i]
        wave.plot([t / RATE for t in range(len(clip))], clip, linewidth=0.4)
        wave.set_ylim(-1, 1)
        wave.set_title(f"clip {i + 1}", fontsize=9)
        spectrogram.specgram(clip + 1e-6, NFFT=256, Fs=RATE, noverlap=192, cmap="inferno", vmin=-130, vmax=-30)
        spectrogram.set_xlabel("seconds", fontsize=8)
    panels[0, 0].set_ylabel("amplitude", fontsize=8)
    panels[1, 0].set_ylabel("Hz", fontsize=8)
    figure.savefig(arguments.out / "spectrograms.png", dpi=80)


if __name__ == "__main__":
    main()
