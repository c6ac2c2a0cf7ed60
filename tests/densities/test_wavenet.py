"""WaveNet: what it sees."""

from helpers import dependence, randomised, values

from pixeldefend.densities import WaveNet


def test_wavenet_sees_its_receptive_field_and_no_further():
    model = randomised(WaveNet((24,), residual=8, skip=24, depth=3, stacks=2, levels=5), scale=0.2).double()
    assert model.receptive_field == 15
    seen = sum(dependence(model, values(model, 1, off_grid=True, seed=seed).double(), (20,)) for seed in range(3)) != 0
    assert seen.nonzero().flatten().tolist() == list(range(5, 20))
