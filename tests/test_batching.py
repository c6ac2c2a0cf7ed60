"""Batches that fit into memory."""

import pytest
import torch

from pixeldefend.batching import in_batches, is_out_of_memory
from pixeldefend.errors import ParameterError


def test_parts_are_consecutive_and_cover_everything():
    x = torch.arange(10)
    parts = list(in_batches(lambda part: part, x, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), x)
    assert [len(part) for part in in_batches(lambda part: part, x[:0], 4)] == [0]
    with pytest.raises(ParameterError, match="0"):
        list(in_batches(len, x, 0))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_what_does_not_fit_is_halved_and_stays_small(error):
    sizes = []

    def at_most_three(part):
        sizes.append(len(part))
        if len(part) > 3:
            raise error
        return part

    x = torch.arange(10)
    with pytest.warns(UserWarning, match="memory"):
        parts = list(in_batches(at_most_three, x, 8))
    assert torch.equal(torch.cat(parts), x)
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_what_never_fits_and_other_errors_come_through():
    def never(part):
        raise MemoryError

    def wrong(part):
        raise RuntimeError("shapes differ")

    with pytest.warns(UserWarning, match="memory"), pytest.raises(MemoryError):
        list(in_batches(never, torch.arange(4), 2))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_batches(wrong, torch.arange(4), 2))


def test_torch_s_own_error_is_one_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("no"))
