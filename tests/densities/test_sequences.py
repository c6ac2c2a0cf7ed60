"""Text, and sequences of any length."""

import pytest
import torch
from helpers import randomised, values

from pixeldefend.densities import RNN, WaveNet
from pixeldefend.errors import ParameterError


@pytest.fixture(params=["rnn", "wavenet"])
def model(request):
    if request.param == "rnn":
        return randomised(RNN((8,), hidden=12, vocabulary="abc d"))
    return randomised(WaveNet((8,), residual=6, skip=12, depth=2, stacks=1, vocabulary="abc d"))


def test_text_comes_back_as_it_went_in(model):
    x = model.encode("dab a cab")
    assert x.shape == (1, 9)
    assert model.decode(x) == ["dab a cab"]
    assert model.decode(x[0]) == "dab a cab"


def test_characters_outside_the_vocabulary_are_refused(model):
    with pytest.raises(ParameterError, match="'x'"):
        model.encode("abxy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(vocabulary="abca"), "'a'"),
        (dict(vocabulary="abc", levels=4), "3 characters.* 4"),
        (dict(vocabulary="abc", head="bernoulli"), "3 characters.* 2"),
    ],
)
def test_a_vocabulary_must_fit(arguments, message):
    for make in (RNN, WaveNet):
        with pytest.raises(ParameterError, match=message):
            make((8,), **arguments)


def test_sequences_of_any_length(model):
    """And what comes later changes nothing: the probability of a beginning is that of the beginning alone."""
    long = values(model, 2).repeat(1, 3)
    torch.testing.assert_close(model.log_prob_map(long)[:, :11], model.log_prob_map(long[:, :11]))
    text = model.sample(2, length=30, given=model.encode("cab"), generator=torch.Generator().manual_seed(0))
    assert all(line.startswith("cab") and len(line) == 30 for line in model.decode(text))


def test_sequences_of_no_length_are_refused(model):
    with pytest.raises(ParameterError, match=r"\(2, 0\)"):
        model.log_prob(torch.zeros(2, 0))
    for length in (0, -1):
        with pytest.raises(ParameterError, match=f"length .* {length}"):
            model.sample(1, length=length)


def test_images_have_one_size_only():
    model = RNN((1, 3, 4), hidden=4, head="bernoulli")
    with pytest.raises(ParameterError, match="length 5"):
        model.sample(1, length=5)
    with pytest.raises(ParameterError, match=r"\(2, 12\)"):
        model.log_prob(torch.zeros(2, 12))


def test_temperature_sharpens(model):
    with torch.no_grad():
        entropy = [
            -model.log_prob(model.sample(200, temperature=t, generator=torch.Generator().manual_seed(0))).mean()
            for t in (0.3, 1.0, 3.0)
        ]
    assert entropy[0] < entropy[1] < entropy[2]
