"""How densities are named, made, saved and loaded, and how one is added."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from helpers import SMALL, randomised, values

from pixeldefend import densities
from pixeldefend.densities import DENSITIES, EoNADE, OrderEnsemble, WaveNet, build
from pixeldefend.densities.autoregressive import RowAutoregressive
from pixeldefend.densities.fvsbn import FVSBNNet
from pixeldefend.densities.heads import make_head
from pixeldefend.errors import ModelError, ParameterError
from pixeldefend.serialization import load_tensors, save_tensors

# what files that were written before hold, key by key
CONFIGS = [
    {"model": "fvsbn", "event_shape": [7], "head": "categorical", "levels": 5, "mixtures": 5},
    {"model": "nade", "event_shape": [9], "hidden": 12, "head": "categorical", "levels": 4, "mixtures": 5},
    {
        "model": "eonade",
        "event_shape": [9],
        "hidden": 8,
        "layers": 2,
        "head": "bernoulli",
        "levels": 256,
        "mixtures": 5,
        "ordering": 3,
    },
    {
        "model": "made",
        "event_shape": [9],
        "hidden": [12, 12],
        "masks": 4,
        "order_agnostic": True,
        "direct": False,
        "head": "normals",
        "levels": 256,
        "mixtures": 5,
        "ordering": 2,
    },
    {
        "model": "row_lstm",
        "event_shape": [1, 5, 6],
        "filters": 12,
        "layers": 1,
        "head": "bernoulli",
        "levels": 256,
        "mixtures": 5,
    },
    {
        "model": "gated_pixelcnn",
        "event_shape": [1, 4, 4],
        "filters": 4,
        "blocks": 1,
        "kernel": 3,
        "classes": 3,
        "head": "logistics",
        "levels": 256,
        "mixtures": 2,
        "label": 1,
    },
    {
        "model": "pixelcnnpp",
        "event_shape": [1, 8, 8],
        "filters": 4,
        "blocks": 1,
        "scales": 1,
        "streams": 2,
        "activation": "elu",
        "dropout": 0.0,
        "head": "logistics",
        "mixtures": 2,
    },
]


@pytest.mark.parametrize("config", CONFIGS, ids=[config["model"] for config in CONFIGS])
def test_a_config_is_the_name_and_every_argument_in_order(config):
    assert json.dumps(build(config).config) == json.dumps(config)


def test_positional_arguments_and_defaults_are_recorded():
    assert DENSITIES["nade"]((4,)).config == build({"model": "nade", "event_shape": [4]}).config
    assert EoNADE(torch.Size([4]), hidden=3).config["event_shape"] == [4]


def test_a_vocabulary_says_how_many_levels_are_recorded():
    assert WaveNet((8,), vocabulary="abc", residual=2, skip=2).config["levels"] == 3


def test_an_ensemble_records_its_density():
    density = EoNADE((4,), hidden=3)
    config = {"model": "order_ensemble", "density": density.config, "orderings": 2}
    assert OrderEnsemble(density, 2).config == config
    assert build(config).config == config


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_knows_its_name_and_its_events(name):
    assert DENSITIES[name].name == name
    assert DENSITIES[name].events <= {"images", "rows", "sequences"}


def test_unknown_names_are_refused():
    with pytest.raises(ParameterError, match="nope"):
        build({"model": "nope"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(model="nade", event_shape=(4,), hidden=0), "hidden .* 0"),
        (dict(model="eonade", event_shape=(4,), layers=0), "layers .* 0"),
        (dict(model="eonade", event_shape=(4,), ordering=-1), "ordering .* -1"),
        (dict(model="made", event_shape=(4,), hidden=[]), r"hidden .* \[\]"),
        (dict(model="made", event_shape=(4,), masks=0), "masks .* 0"),
        (dict(model="made", event_shape=(4,), masks=2, ordering=2), "ordering .* 2"),
        *(
            (dict(model=name, event_shape=shape), "event_shape")
            for name, density in DENSITIES.items()
            if "rows" in density.events
            for shape in [(0,), (-3,), (), (1, -2, 3)]
        ),
        (dict(model="fvsbn", event_shape=(4,), head="categorical", levels=1), "levels .* 1"),
        (dict(model="rnn", event_shape=(4,), cell="lsd"), "'lsd'"),
        (dict(model="rnn", event_shape=(4,), dropout=1.0), "dropout .* 1.0"),
        (dict(model="wavenet", event_shape=(4,), depth=0), "depth .* 0"),
        (dict(model="pixelcnnpp", event_shape=(4,)), r"event_shape .* \(4,\)"),
        (dict(model="pixelcnnpp", event_shape=(1, 7, 28)), "event_shape"),
        (dict(model="pixelcnnpp", event_shape=(2, 8, 8)), "event_shape"),
        (dict(model="pixelcnnpp", event_shape=(1, 8, 8), scales=4), "scales .* 4"),
        (dict(model="pixelcnnpp", event_shape=(1, 8, 8), streams=1), "streams .* 3 scales"),
        (dict(model="pixelcnnpp", event_shape=(1, 8, 8), activation="silu"), "'silu' with streams=2"),
        (dict(model="pixelcnnpp", event_shape=(1, 8, 8), activation="relu"), "activation .* 'relu'"),
        (dict(model="pixelcnn", event_shape=(4,)), "event_shape"),
        (dict(model="pixelcnn", event_shape=(3, None, None)), "event_shape"),
        (dict(model="pixelcnnpp", event_shape=(3, None, None)), "event_shape"),
        (dict(model="made", event_shape=(3, None, None)), "event_shape"),
        (dict(model="pixelcnn", event_shape=(3, 8, 8), filters=4), "3 channels"),
        (dict(model="gated_pixelcnn", event_shape=(3, 8, 8), filters=4), "3 channels"),
        (dict(model="gated_pixelcnn", event_shape=(1, 8, 8), kernel=4), "kernel .* 4"),
        (dict(model="row_lstm", event_shape=(4,)), "event_shape"),
        (dict(model="diagonal_bilstm", event_shape=(3, 8, 8), filters=4), "3 channels"),
    ],
)
def test_bad_configurations_are_refused(config, message):
    with pytest.raises(ParameterError, match=message):
        build(config)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [dict(hidden=4), dict(model="of a later version"), dict(colour=1)])
def test_a_file_that_does_not_fit_is_refused_by_its_name(tmp_path, change):
    build({"model": "nade", "event_shape": (4,), "hidden": 3}).save(tmp_path / "d.safetensors")
    tensors, meta = load_tensors(tmp_path / "d.safetensors")
    save_tensors(tmp_path / "d.safetensors", tensors, {**meta, "density": {**meta["density"], **change}})
    with pytest.raises(ModelError, match=r"d\.safetensors"):
        densities.load(tmp_path / "d.safetensors")


def test_a_file_of_another_kind_is_refused(tiny_detector, tmp_path):
    tiny_detector.save(tmp_path / "detector.safetensors")
    with pytest.raises(ModelError, match="detector"):
        densities.load(tmp_path / "detector.safetensors")


# -- a density of one's own --------------------------------------------------------------------------------------------

MODULE = '''
"""Every site depends on the one before it."""
from torch import nn

from pixeldefend.densities import DENSITIES
from pixeldefend.densities.autoregressive import RowAutoregressive
from pixeldefend.densities.heads import make_head
from pixeldefend.densities.sites import number_of_sites
import torch


class ChainNet(nn.Module):
    def __init__(self, sites, outputs):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(sites, outputs)) for _ in range(2))

    def forward(self, x):
        before = nn.functional.pad(x, (1, 0))[:, :-1, None]
        return self.bias + before * self.weight

    def steps(self, x):
        for site in range(x.shape[1]):
            before = x[:, site - 1, None] if site else x[:, :1] * 0
            yield self.bias[site] + before * self.weight[site]


class Chain(RowAutoregressive):
    name = "chain"
    full_context = False

    def __init__(self, event_shape, *, head="bernoulli", levels=2, mixtures=2):
        made = make_head(head, levels=levels, mixtures=mixtures)
        super().__init__(event_shape, ChainNet(number_of_sites(event_shape), made.outputs), made)


DENSITIES["chain"] = Chain
'''


def test_an_added_density_passes_the_contract_tests_unseen(tmp_path):
    """One file and one line: the tests of the contract find it, none of them edited."""
    (tmp_path / "chain.py").write_text(MODULE)
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "chain", "-k", "chain", "--junit-xml", "found.xml"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    command += [str(Path(__file__).with_name("test_contract.py"))]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:]
    suite = next(ElementTree.parse(tmp_path / "found.xml").iter("testsuite"))
    names = {case.get("name", "").split("[")[0] for case in suite.iter("testcase")}
    assert {"test_probabilities_of_all_events_sum_to_one", "test_save_and_load"} <= names
    assert int(suite.get("tests", 0)) > 20
    assert suite.get("skipped") == "0"


def test_an_added_density_is_built_saved_and_loaded(monkeypatch, tmp_path):
    class Mine(RowAutoregressive):
        name = "mine"

        def __init__(self, event_shape: tuple[int, ...], *, head: str = "bernoulli") -> None:
            made = make_head(head)
            super().__init__(event_shape, FVSBNNet(event_shape[0], made), made)

    monkeypatch.setitem(DENSITIES, "mine", Mine)
    density = randomised(build({"model": "mine", "event_shape": (5,)}))
    assert density.config == {"model": "mine", "event_shape": [5], "head": "bernoulli"}
    density.save(tmp_path / "mine.safetensors")
    x = values(density, 3)
    assert torch.equal(densities.load(tmp_path / "mine.safetensors").log_prob(x), density.log_prob(x))


def test_every_density_has_small_configurations():
    assert SMALL.keys() == DENSITIES.keys()
