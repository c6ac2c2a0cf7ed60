"""pixeldefend benchmark, compare and leaderboard: how well attacks are detected."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ParameterError
from .options import DataDir, Device, names_of
from .output import note, progress, say

ATTACKS = "Attacks"
MEASURES = "What is measured"
PHOTOGRAPHS = "Photographs"
AWARE = "Attacks that know the detector"
MACHINE = "Where it runs"


def benchmark(
    ctx: typer.Context,
    detector: Annotated[
        list[str],
        typer.Option(
            help="The detector: the name of a shipped one ({detectors}), the path of a saved one, a baseline "
            "({baselines}; for photographs {photo_baselines}) or MODULE:OBJECT. Repeat the option to compare several "
            "detectors in one table."
        ),
    ],
    classifier: Annotated[
        str,
        typer.Option(
            help="The classifier that is attacked: the name of a shipped one ({classifiers}), one of ImageNet "
            "({imagenet_classifiers}, torchvision:NAME), the path of a saved one, a TorchScript or torch.export file, "
            "or MODULE:OBJECT."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="The data set: a name ({datasets}), a folder of images, or an .npz file with x and y. With a "
            "classifier of ImageNet, or with --view, it is a folder of photographs of any size."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder for results.json, results.md, roc.png and report.html. For several detectors it gets "
            "comparison.json and comparison.md."
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            help="A named set of options: {suites}. quick runs five attacks on 100 images. standard runs all attacks "
            "on 1,000 images. adaptive also runs attacks that know the detector. full runs them all on all test "
            "images. Other options override those of the suite. With several detectors, the suite leaves out "
            "--corruptions, --oracle and --by-class."
        ),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            help="What is attacked of a photograph. A number such as 224 is the side in pixels of a square crop from "
            "the middle. With native, it is the photograph at its own size, which the classifier resizes itself. The "
            "default is a crop of the size of the classifier's input.",
            rich_help_panel=PHOTOGRAPHS,
        ),
    ] = None,
    learn: Annotated[
        Path | None,
        typer.Option(
            help="A folder of other clean photographs, which are never attacked. Baselines learn from a third of them, "
            "and the rest calibrates baselines and detectors from MODULE:OBJECT. Other detectors do not need it.",
            rich_help_panel=PHOTOGRAPHS,
        ),
    ] = None,
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            help="The largest number of pixels of a photograph with --view native. Larger ones are left out.",
            rich_help_panel=PHOTOGRAPHS,
        ),
    ] = 1_000_000,
    attacks: Annotated[
        str,
        typer.Option(
            help="The attacks, separated by commas: {attacks}. The default is all of them.", rich_help_panel=ATTACKS
        ),
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of test images that are attacked. The default is all of them.",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="The seed of the random starts of the attacks.", rich_help_panel=ATTACKS)
    ] = 0,
    statistics: Annotated[
        str,
        typer.Option(
            help="The statistics beside the detector's own, separated by commas: {statistics}, "
            "{classifier_statistics}. The default is all statistics that need one pass of the density, learn fast and "
            "use no classifier. With several detectors, it is bits_per_dim and excess_surprisal.",
            rich_help_panel=MEASURES,
        ),
    ] = "",
    clean: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of clean test images. The default is as many as are attacked.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions",
            help="Also measure how often clean images are flagged after benign corruptions; of photographs, after each "
            "history ({histories}).",
            rich_help_panel=MEASURES,
        ),
    ] = False,
    other: Annotated[
        list[str],
        typer.Option(
            help="Another data set with images of the same shape. The benchmark also measures how often its images are "
            "flagged. The option may be repeated.",
            rich_help_panel=MEASURES,
        ),
    ] = [],  # noqa: B006
    by_class: Annotated[
        bool,
        typer.Option("--by-class", help="Also measure the false alarms of each class.", rich_help_panel=MEASURES),
    ] = False,
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle",
            help="Also fit a classifier of all statistics to each attack, as an upper bound on detection.",
            rich_help_panel=MEASURES,
        ),
    ] = False,
    no_pictures: Annotated[
        bool,
        typer.Option(
            "--no-pictures",
            help="Leave examples of attacked images out of results and report, if you may not publish the images.",
            rich_help_panel=MEASURES,
        ),
    ] = False,
    adaptive: Annotated[
        str,
        typer.Option(
            help="The attacks that know the detector, separated by commas: {detector_aware_attacks}. The value 'all' "
            "selects all of them. The default is none.",
            rich_help_panel=AWARE,
        ),
    ] = "",
    adaptive_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of images for the attacks that know the detector. The default is 100.",
            rich_help_panel=AWARE,
        ),
    ] = None,
    eps: Annotated[
        str,
        typer.Option(
            help="The largest changes (Linf) of the attacks that know the detector, in 8-bit steps, separated by "
            "commas.",
            rich_help_panel=AWARE,
        ),
    ] = "",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of steps of the attacks that know the detector. The default is 100.",
            rich_help_panel=AWARE,
        ),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of random starts of the attacks that know the detector. The default is 1.",
            rich_help_panel=AWARE,
        ),
    ] = None,
    expensive_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of images for the expensive attacks: without gradients, through purification and by "
            "transfer. The default is 20.",
            rich_help_panel=AWARE,
        ),
    ] = None,
    expensive_eps: Annotated[
        str,
        typer.Option(
            help="The largest changes (Linf) of the expensive attacks, in 8-bit steps, separated by commas. The "
            "default is --eps.",
            rich_help_panel=AWARE,
        ),
    ] = "",
    surrogate_classifier: Annotated[
        str | None,
        typer.Option(
            help="The surrogate classifier of a transfer attack, whose attacker does not have the attacked models. It "
            "takes the values of --classifier.",
            rich_help_panel=AWARE,
        ),
    ] = None,
    surrogate_detector: Annotated[
        str | None,
        typer.Option(
            help="The surrogate detector of a transfer attack. It takes the values of --detector.",
            rich_help_panel=AWARE,
        ),
    ] = None,
    data_dir: DataDir = Path("data"),
    device: Device = "cpu",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="The folder that caches attacked images. An interrupted run continues from there.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
) -> None:
    """Measure how well attacks are detected.

    It fixes the thresholds on clean calibration images, and then attacks test images. For each attack and statistic, it
    reports the AUROC and the shares detected at 1 % and 5 % false alarms. It writes results.json, results.md, roc.png
    and report.html.
    """
    from .. import eval as evaluation
    from ..data import load_dataset
    from ..imagenet import is_imagenet_name
    from ..zoo import recipe_of
    from .photographs import on_photographs

    titles = [Path(name).stem for name in detector]
    several = len(titles) > 1
    if len(set(titles)) < len(titles):
        raise ParameterError(f"detectors must have different file names, got {', '.join(titles)}")
    photographic = view is not None or is_imagenet_name(classifier)
    if photographic and (other or oracle or by_class or statistics or surrogate_detector):
        raise ParameterError(
            "--other, --oracle, --by-class, --statistics and --surrogate-detector do not work with photographs"
        )
    if several and (other or oracle or by_class or (corruptions and not photographic)):
        raise ParameterError("--corruptions, --other, --oracle and --by-class work with one detector only")
    if (surrogate_classifier is None) != (surrogate_detector is None):
        raise ParameterError("--surrogate-classifier and --surrogate-detector must be given together")
    if suite is not None and suite not in evaluation.SUITES:
        raise ParameterError(f"unknown suite {suite!r}; there are: {', '.join(evaluation.SUITES)}")
    options: dict[str, Any] = {} if suite is None else dict(evaluation.SUITES[suite])
    if several:
        for name in ("corruptions", "oracle", "by_class"):  # a suite may ask for them
            options.pop(name, None)
    aware = aware_options(
        options.pop("adaptive", None),
        adaptive,
        eps=budgets("--eps", eps),
        expensive_eps=budgets("--expensive-eps", expensive_eps),
        limit=adaptive_limit,
        expensive_limit=expensive_limit,
        steps=steps,
        restarts=restarts,
        surrogate=surrogate_detector,
    )
    given = dict(
        attacks=names_of(attacks),
        statistics=names_of(statistics),
        limit=limit,
        clean=clean,
        corruptions=corruptions,
        oracle=oracle,
        by_class=by_class,
    )
    options |= {name: value for name, value in given.items() if value}
    out.mkdir(parents=True, exist_ok=True)  # fails now, and not after hours of attacks
    victim = evaluation.find_classifier(classifier, device=device)
    options |= dict(seed=seed, cache=evaluation.Cache(cache), log=note)
    if aware is not None:
        options["adaptive"] = {**aware, "progress": _attacking}
    named = dict(zip(titles, detector, strict=True))
    if photographic:
        found = on_photographs(
            named, victim, Path(data), learn=learn, view=view, max_pixels=max_pixels, device=device, options=options
        )
    else:
        images = load_dataset(data, data_dir)
        options["other_data"] = [load_dataset(name, data_dir) for name in other]
        if surrogate_classifier is not None and surrogate_detector is not None:
            surrogate = evaluation.find_classifier(surrogate_classifier, device=device)
            options["adaptive"]["surrogate"] = (
                surrogate,
                evaluation.find_detector(surrogate_detector, surrogate, images, device=device),
            )
        detectors = {t: evaluation.find_detector(name, victim, images, device=device) for t, name in named.items()}
        recipes = {title: recipe_of(name) for title, name in named.items()}
        if several:
            found = evaluation.compare(detectors, victim, images, recipes=recipes, **options)
        else:
            title = titles[0]
            found = evaluation.run_benchmark(detectors[title], victim, images, recipe=recipes[title], **options)
    found["command"] = shlex.join(["pixeldefend", *ctx.find_root().obj["arguments"]])
    if no_pictures and not several:  # a comparison has none
        found["examples"] = []
    (evaluation.write_comparison if several else evaluation.write_report)(found, out)
    say((out / ("comparison.md" if several else "results.md")).read_text("utf-8"))


def compare(
    results: Annotated[
        list[Path], typer.Argument(help="Two or more results.json of benchmark runs, or the folders that hold them.")
    ],
) -> None:
    """Compare the results of several benchmark runs, with one row per attack."""
    from ..eval import side_by_side

    say(side_by_side(results))


def leaderboard(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of entries. By default the shipped entries are shown.")
    ] = None,
) -> None:
    """Print a table that compares detectors and baselines under one protocol."""
    from ..eval import leaderboard_table

    say(leaderboard_table(folder))


def aware_options(
    suite: dict[str, Any] | None, attacks: str, *, surrogate: str | None, **given: Any
) -> dict[str, Any] | None:
    """Returns the arguments of the attacks that know the detector, or None if none are wanted.

    Args:
        suite: The arguments of the suite, or None.
        attacks: The value of --adaptive.
        surrogate: The value of --surrogate-detector.
        **given: The values of the other options, which override the suite's; None for those that were not given.

    Raises:
        ParameterError: If one of these options is given without such attacks.
    """
    chosen = {name: value for name, value in given.items() if value}
    if suite is None and not attacks:
        if chosen or surrogate:
            raise ParameterError(
                "--eps, --steps and the other options of attacks that know the detector need --adaptive, or a suite "
                "with it"
            )
        return None
    if (names := names_of(attacks)) not in (None, ["all"]):
        chosen["attacks"] = names
    return (suite or {}) | chosen


def budgets(option: str, listed: str) -> list[int]:
    """Returns the integers of a comma-separated list.

    Args:
        option: The name of the option, for the message.
        listed: The value of the option: numbers of 8-bit steps, separated by commas.

    Returns:
        The numbers, without duplicates.

    Raises:
        ParameterError: If an item is no integer.
    """
    for item in names_of(listed) or ():
        if not item.isdecimal():
            raise ParameterError(f"{option} wants whole 8-bit steps, got {item!r}")
    return [int(item) for item in names_of(listed) or ()]


def _attacking(steps: Iterable[Any]) -> Iterable[Any]:
    return progress(steps, "Attacking")
