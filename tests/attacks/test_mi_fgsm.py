"""MI-FGSM."""

import foolbox
import torch
from torch import nn

from pixeldefend.attacks.mi_fgsm import LinfMomentumAttack


class Turning(nn.Module):
    """A linear classifier of two pixels whose weights are others at each call."""

    WEIGHTS = ((1.0, 3.0), (-2.0, -2.0))

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        weights = x.new_tensor(self.WEIGHTS[self.calls % 2])
        self.calls += 1
        return torch.stack([torch.zeros(len(x)), (x.flatten(1) * weights).sum(1)], 1)


def test_gradients_are_added_in_units_of_their_mean_absolute_value():
    """The units of the first one are (1/2, 3/2), those of the second one (-1, -1): their sum is (-1/2, 1/2)."""
    model = foolbox.PyTorchModel(Turning().eval(), (0, 1), "cpu")
    x, labels = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    _, found, _ = LinfMomentumAttack(steps=2)(model, x, labels, epsilons=0.2)
    # each step is half of the budget: up and up, then down and up
    torch.testing.assert_close(found - x, torch.tensor([0.0, 0.2]).reshape(1, 1, 1, 2))
