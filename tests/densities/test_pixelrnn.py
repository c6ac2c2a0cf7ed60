"""What the LSTMs of PixelRNN see."""

import torch
from helpers import dependence, randomised, values

from pixeldefend.densities import DiagonalBiLSTM, RowLSTM
from pixeldefend.densities.pixelrnn import skew, unskew


def seen_from(density, site):
    inputs = (values(density, 1, off_grid=True, seed=seed).double() for seed in range(3))
    return sum(dependence(density, x, site) for x in inputs)[0] != 0


def test_a_row_lstm_sees_a_triangle():
    density = randomised(RowLSTM((1, 3, 24), filters=12, head="bernoulli"), scale=0.2).double()
    seen = seen_from(density, (0, 2, 12))
    # the 7 x 7 convolution reaches 3 columns to each side; the LSTM's input one more to the left; its state one more to
    # each side with every row up
    assert seen[2].nonzero().flatten().tolist() == [8, 9, 10, 11]
    assert seen[1].nonzero().flatten().tolist() == list(range(7, 16))
    assert seen[0].nonzero().flatten().tolist() == list(range(6, 17))


def test_a_diagonal_bilstm_sees_everything_before():
    density = randomised(DiagonalBiLSTM((1, 3, 24), filters=12, head="bernoulli"), scale=0.2).double()
    seen = seen_from(density, (0, 2, 12))
    assert seen[:2].all()
    assert seen[2, :12].all()
    assert not seen[2, 12:].any()


def test_skewing_turns_diagonals_into_columns_and_back():
    x = torch.arange(1.0, 13).reshape(1, 3, 4, 1)
    skewed = skew(x)
    assert skewed[0, :, :, 0].tolist() == [[1, 2, 3, 4, 0, 0], [0, 5, 6, 7, 8, 0], [0, 0, 9, 10, 11, 12]]
    assert torch.equal(unskew(skewed, 4), x)
