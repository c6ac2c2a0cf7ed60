"""What `docs/generate.py` writes between its markers: `BLOCKS` names the functions."""

from collections.abc import Callable

from . import cards, measurements, photographs, registries, results

BLOCKS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for module in (results, measurements, photographs, registries, cards)
    for function in module.BLOCKS
}
