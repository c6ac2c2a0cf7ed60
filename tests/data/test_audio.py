"""Audio: companding and files."""

import math
import wave

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixeldefend.data import load_dataset, mu_law_decode, mu_law_encode, read_wav, write_wav
from pixeldefend.errors import DataError, ParameterError


def test_mu_law_is_finest_around_silence_and_the_identity_on_the_grid():
    grid = torch.arange(256) / 255
    torch.testing.assert_close(mu_law_encode(mu_law_decode(grid)), grid)
    steps = mu_law_decode(grid).diff()
    assert (steps > 0).all()
    assert steps[127] < steps[0] / 50
    assert mu_law_decode(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-1, 1])


@given(st.floats(-1, 1))
def test_mu_law_loses_little(amplitude):
    there_and_back = mu_law_decode(mu_law_encode(torch.tensor(amplitude, dtype=torch.float64))).item()
    assert abs(there_and_back - amplitude) <= math.log(256) / 255 * (abs(amplitude) + 1 / 255) * 1.1


def test_mu_law_refuses_what_is_too_loud():
    with pytest.raises(ParameterError, match=r"\[-1, 1\], got min 0.5 and max 1.5"):
        mu_law_encode(torch.tensor([0.5, 1.5]))


def test_audio_comes_back_from_a_wav_file(tmp_path):
    tone = np.sin(np.arange(1200) / 9).astype(np.float32) * 0.8
    write_wav(tmp_path / "tone.wav", tone, 8000)
    audio, rate = read_wav(tmp_path / "tone.wav")
    assert rate == 8000
    assert audio == pytest.approx(tone, abs=1e-4)
    data = load_dataset(str(tmp_path / "tone.wav"), length=50)
    assert (data.train.shape, data.train.levels) == ((50,), 256)
    heard = mu_law_decode(data.train.float()).flatten().numpy()
    assert heard == pytest.approx(tone[: heard.size], abs=0.03)
    assert len(load_dataset(str(tmp_path), length=50).train) == len(data.train)  # a folder of one file
    write_wav(tmp_path / "other.WAV", tone, 16000)
    with pytest.raises(DataError, match=r"one sample rate: .*(8000|16000) Hz, .*(8000|16000) Hz"):
        load_dataset(str(tmp_path))


def test_bad_audio_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF not really")
    with pytest.raises(DataError, match="not a readable WAV file"):
        load_dataset(str(tmp_path / "a.wav"))
    write_wav(tmp_path / "a.wav", np.zeros(40), 8000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[16] = 255  # a format of 255 bytes, which reaches beyond the end
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(DataError, match="not a readable WAV file"):
        load_dataset(str(tmp_path / "a.wav"))
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 3, 8000, 0, "NONE", ""))
        file.writeframes(bytes(300))
    with pytest.raises(DataError, match="24 bits per sample; wanted 8 or 16"):
        load_dataset(str(tmp_path / "a.wav"))
