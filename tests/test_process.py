"""The command line and the service set up their process before torch and Pillow are imported."""

import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "PILLOW_BLOCK_SIZE")


@pytest.mark.parametrize("module", ["pixeldefend.cli.main", "pixeldefend.serving.server"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE 1000 64m"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None 64m"),
        ({"PILLOW_BLOCK_SIZE": "16k"}, "PASSIVE 1000 16k"),
    ],
)
def test_what_torch_and_pillow_read_is_set_before_they_are_imported(module, given, expected):
    program = f"""
import os, sys
from {module} import prepare_process
assert not {{"torch", "PIL"}} & set(sys.modules)  # which read them when they are imported
prepare_process()
print(*map(os.environ.get, {NAMES}))
"""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == expected, found.stderr
