"""What a caller has set around a call changes no result, and no call changes it."""

import copy
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import clean_images, grid_images, noise, randomised, small_configs, values
from torch import nn

from pixeldefend import ClassConditional, FunctionDetector, PixelDefend, is_adversarial, load_classifier, load_detector
from pixeldefend.ambient import modes_kept, torch_defaults, weights_frozen
from pixeldefend.attacks import ATTACKS, SPSA, Attack, JointPGD, NotFlagged, craft
from pixeldefend.classifier import ResNet, predict_labels
from pixeldefend.densities import DENSITIES, EoNADE, OrderEnsemble, PixelCNNPlusPlus, build, load
from pixeldefend.detectors import Detector
from pixeldefend.errors import ParameterError
from pixeldefend.images import to_batch
from pixeldefend.images.corruptions import CORRUPTIONS, corrupt
from pixeldefend.preprocessing import Resize, Tiles
from pixeldefend.purification import purify
from pixeldefend.scores import CLASSIFIER_SCORES, EXPENSIVE, SCORES, LearnedScore, make_score, residual_ratio
from pixeldefend.zoo import load_density

# -- what a caller may have set ----------------------------------------------------------------------------------------


@contextmanager
def set_to(setter: Callable[[Any], Any], inside: Any, after: Any) -> Iterator[None]:
    try:
        setter(inside)
        yield
    finally:
        setter(after)


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def other_random_state() -> Iterator[None]:
    torch.manual_seed(77)
    np.random.seed(77)  # noqa: NPY002
    random.seed(77)
    yield


@contextmanager
def everything() -> Iterator[None]:
    with ExitStack() as stack:
        for name, state in STATES.items():
            if name not in ("everything at once", "gradients", "float64", "float16"):
                stack.enter_context(state())
        yield


STATES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "bfloat16": lambda: set_to(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "float16": lambda: set_to(torch.set_default_dtype, torch.float16, torch.float32),
    "float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: set_to(torch.set_default_device, "meta", None),
    "a block of a device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "deterministic algorithms": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "warnings are errors": warnings_as_errors,
    "numpy raises errors": lambda: np.errstate(all="raise"),
    "random numbers": other_random_state,
    "everything at once": everything,
}


def state_of_the_process() -> dict[str, Any]:
    """Returns everything that a caller may set and a call must not change."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    status = Path("/proc/self/status")
    return {
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "default type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "inference mode": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "warnings": list(warnings.filters),
        "numpy": np.geterr(),
        "torch's generator": torch.random.get_rng_state().tolist(),
        "numpy's generator": repr(np.random.get_state()),  # noqa: NPY002
        "python's generator": random.getstate(),
        "signals": handlers,
        "umask": [line for line in status.read_text().splitlines() if "Umask" in line] if status.exists() else None,
        "environment": dict(os.environ),
    }


def plain(result: Any) -> Any:
    """Returns a result as values that can be compared, bit by bit."""
    if isinstance(result, torch.Tensor):
        return str(result.dtype), tuple(result.shape), result.detach().double().numpy().tobytes()
    if isinstance(result, np.ndarray):
        return str(result.dtype), result.shape, result.tobytes()
    if isinstance(result, dict):
        return {name: plain(value) for name, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    return result


# -- what a caller may call --------------------------------------------------------------------------------------------


class Detectors:
    """Small detectors and the images that they get."""

    def __init__(self, density: PixelCNNPlusPlus, folder: Path) -> None:
        self.density = density
        self.clean, self.images = clean_images(99), np.concatenate([clean_images(3, seed=1), noise(2)])
        torch.manual_seed(0)
        self.x, self.colour = grid_images(2, 1, 8, 8), grid_images(2, 3, 9, 8)
        self.classifier = Sides().eval()
        self.detector = Detector(density, fpr=0.05).fit(self.clean)
        self.tiled = Detector(density, preprocessor=Tiles(8, 5), aggregate="mean", fpr=0.05)
        self.large = np.concatenate([clean_images(24), clean_images(24, seed=5)], 2)
        self.both = np.concatenate([self.clean[:40], 255 - self.clean[40:80]])
        self.function = FunctionDetector(brightness, fpr=0.05).fit(self.clean)
        self.paths = {"detector": folder / "detector.safetensors", "classifier": folder / "classifier.safetensors"}
        self.detector.save(self.paths["detector"])
        ResNet((1, 8, 8), classes=3, width=4).save(self.paths["classifier"])
        self.density.save(folder / "density.safetensors")
        self.paths["density"] = folder / "density.safetensors"


class Sides(nn.Module):
    """Class 0 if an image is brighter at its bottom than at its top."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 2)
        with torch.no_grad():
            self.linear.weight.copy_(
                torch.linspace(-1, 1, 8).repeat_interleave(8)[None] * torch.tensor([[1.0], [-1.0]])
            )

    def forward(self, x):
        return self.linear(x.flatten(1))


def brightness(x):
    return x.mean((1, 2, 3))


@pytest.fixture(scope="module")
def ours(tiny_density, tmp_path_factory) -> Detectors:
    return Detectors(copy.deepcopy(tiny_density), tmp_path_factory.mktemp("models"))


CALLS: dict[str, Callable[[Detectors], Any]] = {
    "to_batch": lambda our: [to_batch(x)[0] for x in (our.images, our.images / np.float16(255), our.images / 255.0)],
    "load a detector": lambda our: load_detector(our.paths["detector"]).judge(our.images).score,
    "load a density": lambda our: [model.log_prob(our.x) for model in map(loaded, (load, load_density), [our] * 2)],
    "load a classifier": lambda our: predict_labels(load_classifier(our.paths["classifier"]), to_batch(our.images)[0]),
    "is_adversarial": lambda our: is_adversarial(our.images, our.detector),
    "is_adversarial of a list": lambda our: is_adversarial([*our.images], our.detector),
    "p_value": lambda our: our.detector.p_value(our.images),
    "judge": lambda our: vars(our.detector.judge(our.images, maps=True)),
    "bits_per_dim": lambda our: our.detector.bits_per_dim(our.images),
    "fit": lambda our: (
        Detector(our.density, statistic="fused", fpr=0.05).fit(our.clean[:30], X_fit=our.clean[30:]).offset_
    ),
    "fit with corruptions": lambda our: (
        Detector(our.density, fpr=0.1).fit(our.clean[:40], corruptions=["blur-1", "noise-4", "jpeg-75"]).offset_
    ),
    "fit with confidence": lambda our: Detector(our.density, fpr=0.1, confidence=0.9).fit(our.clean).rank_,
    "with_fpr": lambda our: our.detector.with_fpr(0.1).is_adversarial(our.images),
    "drift": lambda our: our.detector.drift_monitor().update(-our.detector.score_samples(our.images)),
    "bfloat16": lambda our: (
        Detector(our.density, fpr=0.05, backend="bfloat16").fit(our.clean[:40]).score_samples(our.images)
    ),
    "tiles": lambda our: vars(copy.copy(our.tiled).fit(our.large).judge(our.large[:3], maps=True)),
    "resize": lambda our: (
        Detector(our.density, preprocessor=Resize(8), fpr=0.05).fit(our.large).score_samples(our.large[:3])
    ),
    "a function": lambda our: our.function.p_value(our.images),
    "by class": lambda our: ClassConditional(Detector(our.density, fpr=0.2), our.classifier).fit(our.both).thresholds_,
    "purify": lambda our: [purify(our.images[:n], 8, our.density) for n in (1, 4)],
    "purify some": lambda our: purify(our.images, 8, our.detector, adaptive=True),
    "PixelDefend": lambda our: PixelDefend(our.classifier, our.detector).purified(our.x),
    "sample": lambda our: our.density.sample(2, generator=torch.Generator().manual_seed(1)),
    "labels": lambda our: predict_labels(our.classifier, our.x),
    "corruptions": lambda our: [corrupt(our.colour, name) for name in CORRUPTIONS],
}


# calls of every kind are made in each state; where there are many of a kind, these find nearly all that the others find
FEW_STATES = ["everything at once", "float64"]
SLOW_CALLS = {"fit", "fit with corruptions", "purify", "purify some", "PixelDefend", "sample"}


def loaded(function: Callable[[Path], Any], our: Detectors) -> Any:
    return function(our.paths["density"])


def density_of(name: str, config: dict[str, Any]) -> Any:
    with torch_defaults(seed=0):
        return randomised(build({"model": name, **config}))


def check(call: Callable[[], Any], states: Iterable[str] = STATES) -> None:
    """Checks that a call has the same result in all states, and leaves each as it is."""
    with torch.random.fork_rng():
        wanted = plain(call())
    for name in states:
        with STATES[name]():
            before = state_of_the_process()
            found = plain(call())
            assert state_of_the_process() == before, name
        assert found == wanted, name


@pytest.mark.parametrize("name", CALLS)
def test_results_do_not_depend_on_what_is_set_and_calls_do_not_change_it(ours, name):
    check(lambda: CALLS[name](ours), ["everything at once"] if name in SLOW_CALLS else STATES)


@pytest.mark.parametrize("name", [*SCORES, *CLASSIFIER_SCORES])
def test_every_statistic(ours, name, monkeypatch):
    monkeypatch.setattr(residual_ratio, "STEPS", 60)  # what it learns does not matter here
    score, x = make_score(name), ours.images[:2]
    if isinstance(score, LearnedScore):
        detector = Detector(ours.density, statistic=name, fpr=0.1, classifier=ours.classifier)
        X_fit = clean_images(600, seed=2) if name == "ratio_and_excess" else ours.both[20:]  # it needs 500
        score = detector.fit(ours.both[:20], X_fit=X_fit).score_
    detector = Detector(ours.density, classifier=ours.classifier)
    slow = name in EXPENSIVE or name in CLASSIFIER_SCORES
    check(lambda: detector.evaluate({name: score}, x), ["everything at once"] if slow else FEW_STATES)


@pytest.mark.parametrize("name", DENSITIES)
def test_every_density(name, tmp_path):
    for k, config in enumerate(small_configs(name)):
        density = density_of(name, config)
        if "classes" in config:
            density = density.conditioned(1)
        x, images = values(density, 2), grid_images(2, 1, 4, 5)
        density.save(tmp_path / f"{k}.safetensors")

        def call(density=density, x=x, images=images, k=k):
            again = load(tmp_path / f"{k}.safetensors")
            with torch.no_grad():  # with gradients torch may compute the same in another way
                return [
                    density.log_prob(x),
                    density.log_prob_map(x),
                    again.log_prob(x),
                    density.to_support(images),
                ]

        check(call, FEW_STATES)


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSITIES)
def test_every_density_s_samples(name):
    config = small_configs(name)[0]
    density = density_of(name, config)

    def call():
        return [
            density.sample(2, generator=torch.Generator().manual_seed(1), method=method)
            for method in ("fixed_point", "cached")
        ]

    check(call, ["everything at once"])


def test_an_ensemble_of_orders():
    with torch_defaults(seed=0):
        ensemble = OrderEnsemble(EoNADE((1, 4, 4), hidden=8), 3).eval()
    x = torch.randint(0, 2, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()

    def call():
        return (
            ensemble.log_prob(x),
            ensemble.log_prob_map(x),
            ensemble.sample(2, generator=torch.Generator().manual_seed(1)),
        )

    check(call)


def test_attacks_do_not_depend_on_what_is_set(ours):
    x = torch.randint(100, 150, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    y = predict_labels(ours.classifier, x)
    chosen = ["noise-8", "fgsm-4", "pgd-4", "pgd-l2-0.5", "salt-and-pepper", "deepfool-l2", "cw-l2", "fmn-l0"]
    assert set(chosen) <= set(ATTACKS)
    for name in chosen:
        attack = ATTACKS[name]
        if "steps" in attack.settings:
            attack = Attack(attack.kind, attack.eps, {**attack.settings, "steps": 4}, attack.is_control)

        def call(attack=attack):
            return list(vars(craft(ours.classifier, x, y, attack, seed=3)).values())

        check(call, ["everything at once", "autocast", "float16", "inference mode"])


def test_attacks_that_know_the_detector_do_not_depend_on_what_is_set(ours):
    from foolbox import PyTorchModel
    from foolbox.criteria import Misclassification

    x = grid_images(2, 1, 8, 8)
    y = predict_labels(ours.classifier, x)
    model = PyTorchModel(ours.classifier, (0, 1), "cpu")
    criterion = Misclassification(y.int())
    attack = JointPGD(ours.detector, steps=3, restarts=2)

    def call():
        flagged = NotFlagged(ours.detector)(x, None)
        return attack.run(model, x, criterion, epsilon=8 / 255), flagged

    check(call, ["everything at once"])
    with pytest.raises(ParameterError, match="17"):
        attack.run(model, x, Misclassification(torch.tensor([0, 17])), epsilon=8 / 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_attacks_that_know_the_detector_on_classifiers_of_any_precision(ours, dtype):
    from foolbox import PyTorchModel
    from foolbox.criteria import Misclassification

    x, classifier = ours.x.to(dtype), copy.deepcopy(ours.classifier).to(dtype)
    criterion = Misclassification(predict_labels(classifier, x).to(torch.uint8).int())
    for attack in (JointPGD(ours.detector, steps=2), SPSA(ours.detector, steps=2, samples=2)):
        with torch.no_grad():
            found = attack.run(PyTorchModel(classifier, (0, 1), "cpu"), x, criterion, epsilon=8 / 255)
        assert found.dtype == dtype
        assert 0 < (found - x).abs().max() <= 8.5 / 255


def test_gradients_are_the_caller_s_affair(ours):
    x = ours.x.clone().requires_grad_()
    assert ours.density.log_prob(x).requires_grad
    assert ours.detector.anomaly_scores(x).requires_grad
    with torch.no_grad():
        assert not ours.density.log_prob(x).requires_grad
        assert not ours.detector.anomaly_scores(x).requires_grad
        with torch_defaults():
            assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert not ours.density.log_prob(x).requires_grad
        with torch_defaults():
            assert not torch.is_grad_enabled()
        with torch_defaults(), torch.enable_grad():
            assert torch.ones(1, requires_grad=True).exp().requires_grad


def test_models_loaded_in_inference_mode_have_gradients_afterwards(ours):
    with torch.inference_mode():
        detector, classifier = load_detector(ours.paths["detector"]), load_classifier(ours.paths["classifier"])
        density, image = load_density(ours.paths["density"]), ours.x * 1
    assert image.is_inference()
    for score in (detector.anomaly_scores, density.log_prob, detector.density.objective):
        x = image.clone().requires_grad_()
        score(x).sum().backward()
        assert x.grad.abs().sum() > 0
    assert density.log_prob(image).requires_grad  # through the weights
    assert detector.anomaly_scores(image).shape == (2,)
    assert detector.is_adversarial(image).shape == (2,)
    assert predict_labels(classifier, image).shape == (2,)
    nn.functional.cross_entropy(classifier(x), torch.zeros(2, dtype=torch.long)).backward()


def test_a_model_that_keeps_what_it_computes_can_be_trained_afterwards(ours):
    class Lazy(Sides):
        kept = None

        def forward(self, x):
            self.kept = torch.ones_like(x[0]) if self.kept is None else self.kept
            return super().forward(x * self.kept)

    for call in (
        lambda classifier: predict_labels(classifier, ours.x),
        lambda classifier: ClassConditional(Detector(ours.density, fpr=0.2), classifier).fit(ours.both),
        lambda classifier: craft(classifier, ours.x, [0, 1], "fgsm-8"),
        lambda classifier: Detector(ours.density, classifier=classifier).evaluate({"c": score_of_classifier}, ours.x),
    ):
        classifier = Lazy()
        with torch.inference_mode():
            call(classifier)
        classifier(ours.x).sum().backward()
        assert classifier.linear.weight.grad is not None


def score_of_classifier(evidence):
    return evidence.classifier(evidence.x)[:, 0]


def test_training_follows_autocast():
    with torch_defaults(seed=0):
        density = PixelCNNPlusPlus((1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2)
    x = grid_images(2, 1, 8, 8)
    exact = density.objective(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(density.objective(x), exact)
        assert torch.equal(density.log_prob(x), -exact)


# -- random numbers ----------------------------------------------------------------------------------------------------


def test_numbers_drawn_with_a_seed_are_those_of_torch_and_leave_its_generator_alone():
    def drawn() -> list[torch.Tensor]:
        layer = nn.Linear(3, 3)
        return [torch.rand(3), torch.randn(2), torch.empty(4).uniform_(), torch.randperm(5), layer.weight.detach()]

    with torch.random.fork_rng():
        torch.manual_seed(5)
        wanted = drawn()
    before = torch.random.get_rng_state()
    with torch_defaults(seed=5):
        found = drawn()
    assert plain(found) == plain(wanted)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_code_of_others_makes_float32_on_the_cpu():
    with STATES["everything at once"](), torch_defaults():
        made = [
            *(torch.zeros(1), torch.rand(1), torch.eye(1), torch.linspace(0, 1, 2), torch.tensor([0.1])),
            *(torch.full((1,), 0.1), torch.arange(0.0, 1.0), torch.as_tensor([0.1]), *nn.Linear(1, 1).parameters()),
        ]
        kept = [torch.tensor([1]), torch.arange(2), torch.full((1,), 1), torch.as_tensor(np.zeros(1))]
        assert torch.as_tensor(made[0]) is made[0]
    assert {(x.dtype, x.device.type) for x in made} == {(torch.float32, "cpu")}
    assert [x.dtype for x in kept] == [torch.int64] * 3 + [torch.float64]
    assert plain(made[4]) == plain(torch.tensor([0.1]))


# -- modes -------------------------------------------------------------------------------------------------------------


class Modes(Sides):
    """A classifier with a frozen and a trained part, which fails if it scores in training mode."""

    def __init__(self, *, fail: bool = False):
        super().__init__()
        self.frozen, self.trained, self.fail = nn.BatchNorm2d(1), nn.BatchNorm2d(1), fail
        self.train()
        self.frozen.eval()

    def forward(self, x):
        if self.fail:
            raise KeyError
        assert not any(part.training for part in self.modules())
        return super().forward(self.trained(self.frozen(x)))


def modes_of(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


def gradients_of(model: nn.Module) -> list[bool]:
    return [weight.requires_grad for weight in model.parameters()]


@pytest.mark.parametrize("fail", [False, True])
def test_every_call_restores_the_modes_of_a_classifier(ours, fail):
    for call in (
        lambda model: predict_labels(model, ours.x),
        lambda model: craft(model, ours.x, [0, 1], "fgsm-8"),
        lambda model: ClassConditional(Detector(ours.density, fpr=0.2), model).fit(ours.both),
        lambda model: Detector(ours.density, classifier=model).evaluate({"c": score_of_classifier}, ours.x),
    ):
        model = Modes(fail=fail)
        before = modes_of(model)
        with pytest.raises(KeyError) if fail else ExitStack():
            call(model)
        assert modes_of(model) == before


def test_purification_and_samples_restore_the_modes_of_every_part(ours):
    density = copy.deepcopy(ours.density).train()
    density.head.eval()
    before = modes_of(density)
    purify(ours.images[:1], 1, density)
    density.sample(1, generator=torch.Generator().manual_seed(0))
    assert modes_of(density) == before


def test_a_part_that_does_more_than_set_its_mode_is_told():
    class Merging(nn.Linear):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(1, 1), Merging(1, 1)).train()
    model[1].eval()
    with modes_kept(model):
        assert [part.merged for part in model] == [True, True]
    assert [part.merged for part in model] == [False, True]


def test_blocks_of_several_threads_overlap():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    for manager, state in ((modes_kept, modes_of), (weights_frozen, gradients_of)):
        before = state(model)
        first, second = manager(model), manager(model)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not any(state(model))
        second.__exit__(None, None, None)
        assert state(model) == before


# -- threads and processes ---------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other(ours):
    model = Modes()
    before, filters = modes_of(model), list(warnings.filters)
    x, images = ours.x, ours.images
    y = predict_labels(model, x)

    def work(k: int) -> Any:
        states = ["autocast", "default device", "inference mode", "no gradients", "gradients", "numpy raises errors"]
        with STATES[states[k % len(states)]]():
            return plain(
                [
                    ours.detector.p_value(images),
                    predict_labels(model, x),
                    craft(model, x, y, "pgd-4", seed=3).images,
                    load_density(ours.paths["density"]).log_prob(x),
                ]
            )

    wanted = work(4)
    generator = torch.random.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        assert all(found == wanted for found in pool.map(work, range(24)))
    assert modes_of(model) == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert list(warnings.filters) == filters
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_a_type_that_another_thread_sets_meanwhile_changes_nothing(ours):
    wanted, stop = plain(ours.detector.p_value(ours.images)), threading.Event()

    def change() -> None:
        while not stop.is_set():
            for dtype in (torch.float64, torch.bfloat16, torch.float32):
                torch.set_default_dtype(dtype)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        found = [plain(load_detector(ours.paths["detector"]).p_value(ours.images)) for _ in range(8)]
    finally:
        stop.set()
        thread.join()
        torch.set_default_dtype(torch.float32)
    assert all(each == wanted for each in found)


def test_openvino_in_threads_and_whatever_is_set(ours):
    pytest.importorskip("openvino")
    wanted, filters = ours.detector.score_samples(ours.images), list(warnings.filters)

    def work(k: int) -> bool:
        detector = fast if k % 8 else load_detector(ours.paths["detector"], backend="openvino")
        return np.allclose(detector.score_samples(ours.images), wanted, atol=1e-3)

    with STATES["everything at once"]():
        before = state_of_the_process()
        fast = load_detector(ours.paths["detector"], backend="openvino")
        assert np.allclose(fast.score_samples(ours.images), wanted, atol=1e-3)
        assert state_of_the_process() == before
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(32)))
    assert list(warnings.filters) == filters


FORK = """
import multiprocessing, os, sys, threading
import numpy as np, torch
from pixeldefend import load_classifier, load_detector
from pixeldefend.attacks import craft
from pixeldefend.classifier import predict_labels

detector, classifier = load_detector(sys.argv[1]), load_classifier(sys.argv[2]).train()
images = np.random.RandomState(0).randint(0, 256, (64, 8, 8), np.uint8)
x = torch.from_numpy(images[:16])[:, None]
large = torch.rand(1000, 1000)

def work(_=None):
    labels = predict_labels(classifier, x)
    made = craft(classifier, x, labels, "fgsm-4").images
    large @ large  # by several threads, if there are
    return detector.p_value(images).round(3).tolist(), labels.tolist(), made.sum().item(), classifier.training

wanted = work()
assert torch.get_num_threads() == 2
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(all(found == wanted for found in pool.map(work, range(2))), flush=True)

class Files(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, k):
        return bool(detector.is_adversarial(images[k : k + 1])[0])

loader = torch.utils.data.DataLoader(Files(), num_workers=1, multiprocessing_context="fork")
print(len(list(loader)), flush=True)

def fork():
    child = os.fork()
    if not child:
        os._exit(work() != wanted)
    print(os.waitpid(child, 0)[1], flush=True)

thread = threading.Thread(target=lambda: [work(), fork()])  # a thread that has OpenMP threads of its own
thread.start(); thread.join()
print(torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_workers_score(ours):
    variables = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-P", "-c", FORK, str(ours.paths["detector"]), str(ours.paths["classifier"])]
    run = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300, check=False)
    assert run.stdout.split() == ["True", "4", "0", "2"], run.stderr


def test_detectors_can_be_copied_and_sent_to_other_processes(ours):
    wanted = plain(ours.detector.p_value(ours.images))
    fast = Detector(ours.density, fpr=0.05, backend="bfloat16").fit(ours.clean)
    for detector in (ours.detector, fast, ours.function):
        wanted = plain(detector.p_value(ours.images))
        assert plain(copy.deepcopy(detector).p_value(ours.images)) == wanted
        assert plain(pickle.loads(pickle.dumps(detector)).p_value(ours.images)) == wanted
