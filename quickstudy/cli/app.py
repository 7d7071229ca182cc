"""The command line: `quickstudy --help`."""

import csv
import difflib
import importlib
import inspect
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import field, make_dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeAlias

import torch
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from quickstudy import console, datasets, learners
from quickstudy.core.task import Json, Task, batches
from quickstudy.datasets import Labelled
from quickstudy.evaluation.protocol import is_transductive
from quickstudy.runs import recipes
from quickstudy.tasks.few_shot import FewShot
from quickstudy.tasks.streams import Streams

Execution: TypeAlias = Literal["recipe", "auto", "vmap", "loop", "compiled"]


def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Watches two learners learn to learn, on letters of alphabets they are then not tested on.

    Example: quickstudy demo

    Args:
        out: folder of the runs and of the report.
        seed: of everything random.
    """
    from quickstudy.cli.demo import demo

    demo(out, seed=seed)


def list_(*, json: bool = False) -> None:
    """Shows the learners, the data sets, the recipes and the stored results that there are.

    Example: quickstudy list

    Args:
        json: print JSON instead of a table.
    """
    found = {"learners": _learners(), "datasets": _datasets(), "recipes": _recipes()}
    found["results"] = _results()
    if json:
        return _print_json(found)
    console = Console()
    for kind, entries in found.items():
        table = Table("name", "what it is", title=kind, title_justify="left", expand=True)
        for name, about in entries.items():
            table.add_row(name, about)
        console.print(table)


def evaluate(
    folder: Positional[Path],
    *,
    dataset: str | None = None,
    split: Literal["train", "validation", "test"] = "test",
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    n_tasks: int | None = None,
    seed: int = 1,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Measures a run's best checkpoint: its recipe's rows, or other tasks of your choice.

    Example: quickstudy evaluate runs/glyphs_protonet --dataset digits --ways 10 --shots 5

    Args:
        folder: of the run.
        dataset: name of a data set (`quickstudy list`), or a folder of class folders of images.
        split: of the data set.
        ways: classes of a task.
        shots: examples of each class to learn from.
        queries: examples of each class to be judged on.
        n_tasks: tasks.
        seed: of the tasks; two runs given one seed are measured on the same tasks.
        device: cpu or cuda.
        json: print JSON, with the value of every task.
    """
    run = recipes.reopen(folder, device=device)
    tests = dict(run.experiment.benchmarks)
    if dataset or split != "test" or ways or shots or queries:
        tests = {"as asked": _other_tasks(run, dataset, split, ways, shots, queries)}
    reports = {}
    for name, test in tests.items():
        with console.bar(name, n_tasks or test.n_tasks) as advance:
            reports[name] = recipes.measure(
                run, test, n_tasks=n_tasks, seed=seed, progress=advance
            )
    if json:
        return _print_json({name: report.to_json() for name, report in reports.items()})
    for name, report in reports.items():
        says = ", ".join(_said(m, report.mean(m), report.interval(m)) for m in report.values)
        card = ", ".join(f"{key}: {value}" for key, value in report.card.items())
        print(f"{name}: {says}  [{card}]")


def adapt(
    folder: Positional[Path],
    *,
    support: Path,
    out: Path,
    invert: bool = False,
    skip_unreadable: bool = False,
) -> None:
    """Teaches a run's learner your classes, from a folder of class folders of images.

    Example: quickstudy adapt runs/glyphs_protonet --support my_letters --out my.safetensors

    Args:
        folder: of the run.
        support: folder with a folder of images for each class, named as the class.
        out: file to write the adapted model to: small, as it refers to the run for the rest.
        invert: swap dark and light; the letters that come with quickstudy are light on dark.
        skip_unreadable: leave out files that are no images.
    """
    from quickstudy.estimators.classifier import FewShotClassifier

    run = recipes.reopen(folder)
    channels, *size = _shape(run)
    data = datasets.folder(
        support,
        size=(size[0], size[1]),
        channels=channels,  # pyright: ignore[reportArgumentType]
        skip_unreadable=skip_unreadable,
    )
    labels = [data.classes[i] for i in data.y.tolist()]
    classifier = FewShotClassifier(run.experiment.learner)
    classifier.fit(_pixels(data.x, invert), labels)
    with torch.no_grad():
        learner = run.experiment.learner.eval()
        transductive = is_transductive(learner, _first(run.experiment))
    facts = {"run": str(folder.resolve()), "invert": invert, "transductive": transductive}
    classifier.save(out, **facts)
    print(f"{out}: {len(data.classes)} classes from {len(labels)} images", file=sys.stderr)
    print(f"Use it: quickstudy predict {out} IMAGE...", file=sys.stderr)


def predict(
    model: Positional[Path],
    images: Positional[tuple[Path, ...]],
    *,
    run: Path | None = None,
    json: bool = False,
) -> None:
    """Says of each image which class it is, and how probable each class is.

    Example: quickstudy predict my.safetensors one.png two.png

    Args:
        model: file written by `quickstudy adapt`.
        images: image files.
        run: folder of the run that the model was adapted from, if it was moved since.
        json: print JSON.
    """
    from quickstudy.estimators.base import read_model
    from quickstudy.estimators.classifier import FewShotClassifier

    facts = read_model(model)[0]["facts"]
    base = recipes.reopen(run or facts["run"])
    classifier = FewShotClassifier.load(model, base.experiment.learner)
    if not images:
        raise ValueError("Name at least one image file.")
    channels, *size = _shape(base)
    pixels = torch.stack([_read(file, (size[0], size[1]), channels) for file in images])
    chances = classifier.predict_proba(_pixels(pixels, facts["invert"]))
    if facts["transductive"]:
        print(
            "Note: this learner judges the images of one call together (its card says "
            "transductive). Give it images of every class at once, not one alone.",
            file=sys.stderr,
        )
    classes = [str(name) for name in classifier.classes_]
    answers = [
        {
            "image": str(file),
            "label": classes[int(row.argmax())],
            "probabilities": dict(zip(classes, map(float, row), strict=True)),
        }
        for file, row in zip(images, chances, strict=True)
    ]
    if json:
        return _print_json(answers)
    for answer in answers:
        likely = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        others = ", ".join(f"{name} {chance:.1%}" for name, chance in likely[:5])
        print(f"{answer['image']}: {answer['label']}  ({others})")


def verify(
    folder: Positional[Path],
    a: Positional[Path],
    b: Positional[Path],
    *,
    support: Path | None = None,
    max_false_accept_rate: float | None = None,
    invert: bool = False,
    json: bool = False,
) -> None:
    """Says of two images whether they show the same, how alike they are, and how often it errs.

    Of two folders, every image of one is compared with every image of the other. What they show
    need not be anything that the run has seen. How alike is alike enough is chosen by examples:
    by the classes that the recipe validates with or, better, by some of your own.

    Example: quickstudy verify runs/glyphs_protonet one.png two.png --support my_letters

    Args:
        folder: of the run.
        a: an image file, or a folder of images.
        b: another.
        support: folder of class folders of images, two at least of some class, to choose by.
        max_false_accept_rate: share of pairs of two classes that may pass, such as 0.01; if not given, as many as
            pairs of one class that do not.
        invert: swap dark and light; the letters that come with quickstudy are light on dark.
        json: print JSON.
    """
    from quickstudy.estimators.verifier import FewShotVerifier

    run = recipes.reopen(folder)
    pairs = list(product(_files(a), _files(b)))
    verifier = FewShotVerifier(
        run.experiment.learner, max_false_accept_rate=max_false_accept_rate
    )
    verifier.fit(*_to_choose_by(run, support, invert))
    left, right = (_images(run, files, invert) for files in zip(*pairs, strict=True))
    scores = verifier.decision_function(left, right)
    answers = [
        {"a": str(one), "b": str(two), "score": score, "same": score >= verifier.threshold_}
        for (one, two), score in zip(pairs, scores.tolist(), strict=True)
    ]
    same, different = verifier.pairs_
    if json:
        found = {
            "threshold": verifier.threshold_,
            "false_accept_rate": verifier.false_accept_rate_,
            "false_reject_rate": verifier.false_reject_rate_,
            "equal_error_rate": verifier.equal_error_rate_,
            "chosen_by": {"pairs_of_one_class": same, "pairs_of_two": different},
        }
        return _print_json({**found, "pairs": answers})
    for answer in answers:
        said = "same" if answer["same"] else "different"
        print(f"{answer['a']}, {answer['b']}: {said}  (score {answer['score']:.3f})")
    print(
        f"Same from a score of {verifier.threshold_:.3f} on. Of the pairs that this was chosen "
        f"by, {verifier.false_accept_rate_:.1%} of {different} of two classes pass, and "
        f"{verifier.false_reject_rate_:.1%} of {same} of one class do not."
    )


def cluster(
    folder: Positional[Path],
    images: Positional[Path],
    *,
    clusters: int | None = None,
    out: Path | None = None,
    invert: bool = False,
    skip_unreadable: bool = False,
    json: bool = False,
) -> None:
    """Sorts images that have no labels into groups of those that a run's learner finds alike.

    Example: quickstudy cluster runs/glyphs_protonet my_images --out groups.csv

    Args:
        folder: of the run.
        images: folder of image files, also of those in folders within it.
        clusters: how many groups; if not given, from 2 to 20 as fits best.
        out: file to write: .csv (image, group) or .json (the images of each group).
        invert: swap dark and light; the letters that come with quickstudy are light on dark.
        skip_unreadable: leave out files that are no images.
        json: print JSON.
    """
    from quickstudy.estimators.clustering import cluster

    if out is not None and out.suffix not in (".csv", ".json"):
        raise ValueError(f"{out} is neither .csv nor .json: end its name by one of these.")
    run = recipes.reopen(folder)
    files = _files(images, within=True)
    if skip_unreadable:
        files = [file for file in files if _is_image(file)]
    labels = cluster(run.experiment.learner, _images(run, files, invert), clusters)
    groups = [
        [str(file) for file, label in zip(files, labels, strict=True) if label == group]
        for group in range(max(labels) + 1)
    ]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as file:
            if out.suffix == ".json":
                file.write(_dumps({"groups": groups}) + "\n")
            else:
                rows = csv.writer(file)
                rows.writerow(["image", "group"])
                rows.writerows((name, k) for k, group in enumerate(groups, 1) for name in group)
        print(f"{out}: {len(files)} images in {len(groups)} groups", file=sys.stderr)
    if json:
        return _print_json({"groups": groups})
    for number, group in enumerate(groups, 1):
        print(f"group {number} ({len(group)}): {', '.join(group)}")


def diagnose(what: Positional[str], *, compiled: bool = False, device: str = "cpu") -> None:
    """Says how a learner can be executed, how fast each way is, and why one is impossible.

    Example: quickstudy diagnose glyphs_fomaml

    Args:
        what: folder of a run, or a recipe.
        compiled: try torch.compile too, which can take minutes.
        device: cpu or cuda.
    """
    from quickstudy.execution.diagnosis import diagnose

    if Path(what).is_dir():
        experiment = recipes.reopen(what, device=device).experiment
    else:
        experiment = recipes.start(what, {}, Path("runs/.none"), device=device).experiment
    found = diagnose(
        experiment.learner, _first(experiment), compiled=compiled, steps=experiment.steps
    )
    print(found)


def compare(folders: Positional[tuple[Path, ...]], *, json: bool = False) -> None:
    """Compares finished runs on the tests that they share, task by task, with what each cost.

    Example: quickstudy compare runs/glyphs_protonet runs/glyphs_fomaml

    Args:
        folders: of finished runs, or files of stored results.
        json: print JSON.
    """
    from quickstudy.runs.compare_runs import compare, table

    short = [folder.resolve().stem for folder in folders]
    names = short if len(set(short)) == len(short) else map(str, folders)
    results = map(recipes.result, folders)
    found = compare(dict(zip(names, results, strict=True)))
    if json:
        return _print_json([comparison.to_json() for comparison in found])
    for comparison in found:
        rows = table(comparison)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        print(f"{comparison.test}\n")
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        print()


def reproduce(
    results: Positional[tuple[str, ...]],
    *,
    execution: Execution = "recipe",
    device: str = "cpu",
) -> None:
    """Runs stored results again, each with its settings, and stores what comes out: for hours.

    Runs are in runs/NAME; the same command goes on where one stopped.

    Example: quickstudy reproduce glyphs_protonet glyphs_fomaml

    Args:
        results: names (`quickstudy list`); none: all that there are.
        how: way of executing tasks; auto measures which is fastest.
        device: cpu or cuda.
    """
    known = recipes.stored()
    for name in results:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
            raise ValueError(f"There is no stored result {name!r}. {hint}")
    for name in results or known:
        print(f"{name}:", file=sys.stderr)
        _train(
            known[name]["recipe"],
            known[name]["settings"],
            out=Path("runs") / name,
            execution=execution,
            device=device,
            record=True,
            stored=name,
            json=False,
        )


def report(folder: Positional[Path], *, out: Path | None = None) -> None:
    """Writes one HTML file about a run: curves, results, protocol, an episode in pictures.

    Example: quickstudy report runs/glyphs_protonet

    Args:
        folder: of the run.
        out: file to write; report.html in the folder if not given.
    """
    from quickstudy.reports.report import write

    print(write(folder, out))


def train(name: str, arguments: Sequence[str], verb: str = "train") -> None:
    """Carries out a recipe; what it can be told is read off the recipe's own signature."""
    module = recipes.find(name)
    settings = inspect.signature(module.recipe).parameters
    own: list[Any] = [
        (key, parameter.annotation, parameter.default) for key, parameter in settings.items()
    ]
    common: list[Any] = [
        (key, Annotated[kind, tyro.conf.arg(help=about)], field(default=default))
        for key, kind, default, about in (
            (
                "out",
                Path | None,
                None,
                "folder of the run; in runs/ if not given",
            ),
            (
                "execution",
                Execution,
                "recipe",
                "way of executing tasks; auto measures which is fastest",
            ),
            (
                "memory_limit",
                str | None,
                None,
                "most that a step may take, such as 8GiB; measures, as execution=auto, what fits",
            ),
            ("device", str, "cpu", "cpu or cuda"),
            ("record", bool, False, "also store the result in recipes/results"),
            ("variant", str, "", "what the result's name has at its end, such as full"),
            ("json", bool, False, "print the result as JSON"),
        )
    ]
    about = inspect.getdoc(module) or name
    text = f"{about}\n\nResumable: the same command goes on where the run stopped.\n"
    less = " --steps 200" if "steps" in settings else ""
    text += f"Example: quickstudy {verb} {name}{less} --out runs/short"
    chosen = vars(
        tyro.cli(
            make_dataclass("Settings", [*own, *common]),
            args=arguments,
            prog=f"quickstudy {verb} {name}",
            description=text,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )
    options = {key: chosen[key] for key in chosen if key not in settings}
    chosen = {key: chosen[key] for key in settings}
    variant = options.pop("variant")
    stored = recipes.result_name(module, chosen) + f"_{variant}" * bool(variant)
    options |= {"stored": stored, "out": options["out"] or Path("runs") / stored}
    _train(name, chosen, live=verb == "stream", **options)


def _train(
    name: str,
    settings: Mapping[str, Json],
    *,
    out: Path,
    execution: Execution,
    device: str,
    record: bool,
    stored: str,
    json: bool,
    memory_limit: str | None = None,
    live: bool = False,
) -> None:
    run = recipes.start(name, settings, out, device=device)
    tests = run.experiment.benchmarks.values()
    if live and not any(isinstance(test.tasks, Streams) for test in tests):
        raise ValueError(f"{name} has no test on streams: say `quickstudy train {name}`.")
    if run.start:
        print(f"Going on from step {run.start} of {out}.", file=sys.stderr)
    way = None if execution in ("recipe", "auto") else execution
    if memory_limit is not None and execution not in ("recipe", "auto"):
        raise ValueError(
            f"--memory-limit chooses how to execute tasks: leave out --execution {execution}."
        )
    if execution == "auto" or memory_limit is not None:
        from quickstudy.execution.planning import plan

        chosen = plan(run.experiment.learner, _first(run.experiment), memory_limit=memory_limit)
        print(chosen, file=sys.stderr)
        chosen.apply(run.experiment.learner)
    console.show(run, recipes.go(run, execution=way))
    if int(os.environ.get("RANK", 0)) > 0:
        return
    with console.streaming() if live else nullcontext() as watch:
        result = recipes.finish(run, name=stored, on_experience=watch)
    if record:
        place = recipes.folders()[0] / "results"
        place.mkdir(exist_ok=True)
        (place / f"{stored}.json").write_text(_dumps(result) + "\n")
    if json:
        return _print_json(result)
    for row, says in zip(result["measured"], _rows(result), strict=True):
        paper = result["paper"].get(row, {})
        published = ", ".join(
            _said(metric, paper[metric], paper.get("interval"))
            for metric in result["measured"][row]
            if metric in paper
        )
        print(says + (f"  (published: {published})" if published else ""))
    print(f"{out / 'result.json'}; pictures: quickstudy report {out}", file=sys.stderr)


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "list": list_,
    "evaluate": evaluate,
    "adapt": adapt,
    "predict": predict,
    "verify": verify,
    "cluster": cluster,
    "diagnose": diagnose,
    "compare": compare,
    "report": report,
    "reproduce": reproduce,
}
ABOUT = """Learning to learn, on PyTorch.

Begin with `quickstudy demo`, or `quickstudy list`. To reproduce a published result:
`quickstudy train omniglot_metric` (its settings: add --help). Add --debug to any command to
see where an error comes from."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command; exits with 0, with 2 and a sentence if it cannot, with 130 on Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        _dispatch(given)
    except KeyboardInterrupt:
        again = "quickstudy " + " ".join(given)
        resumes = given[:1] in (["train"], ["stream"], ["demo"])
        hint = f"; what was done is saved. Go on with: {again}" if resumes else "."
        print(f"Stopped{hint}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = isinstance(error, ValueError | OSError | ImportError | ArithmeticError)
        kind = "Error" if expected else f"Error ({type(error).__name__})"
        hint = "" if expected or debug else " Add --debug to see where."
        print(f"{kind}: {error}{hint}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _dispatch(given: list[str]) -> None:
    verb, rest = given[:1], given[1:]
    if verb in (["train"], ["stream"]) and rest and not rest[0].startswith("-"):
        return train(rest[0], rest[1:], verb[0])
    if verb == ["stream"]:
        print("usage: quickstudy stream RECIPE [OPTIONS]   (options: stream RECIPE --help)\n")
        print(inspect.getdoc(_stream_help))
        return None if rest in (["-h"], ["--help"]) else sys.exit(2)
    if given[:1] == ["train"]:
        print("usage: quickstudy train RECIPE [OPTIONS]    (options: train RECIPE --help)\n")
        print("Carries out a recipe; the same command resumes it. The recipes:\n")
        for name, about in _recipes().items():
            print(f"  {name:24} {about}")
        print("\nExample: quickstudy train glyphs_protonet --steps 200 --out runs/short")
        return None if given[1:] in (["-h"], ["--help"]) else sys.exit(2)
    names = [*COMMANDS, "train", "stream"]
    if given and not given[0].startswith("-") and given[0] not in names:
        near = difflib.get_close_matches(given[0], names, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
        raise ValueError(f"There is no command {given[0]!r}. {hint}")
    commands = {**COMMANDS, "train": _train_help, "stream": _stream_help}
    return tyro.extras.subcommand_cli_from_dict(
        commands, prog="quickstudy", description=ABOUT, args=given or ["--help"]
    )


def _train_help() -> None:
    """Carries out a recipe, resumably: quickstudy train RECIPE --help."""


def _stream_help() -> None:
    """Carries out a recipe as train does, showing its tests on streams as they are learned.

    The accuracy on every experience after each is a matrix in the terminal. The same command
    goes on after the last experience that was learned.

    Example: quickstudy stream streams --out runs/split
    """


def _other_tasks(
    run: recipes.Run,
    dataset: str | None,
    split: str,
    ways: int | None,
    shots: int | None,
    queries: int | None,
) -> recipes.Benchmark:
    """Few-shot tasks as asked, the rest as in the first row of the recipe."""
    first = next(iter(run.experiment.benchmarks.values()))
    like = first.tasks
    if not isinstance(like, FewShot):
        raise ValueError(
            f"Recipe {run.recipe} has no few-shot classification tasks to change: leave out "
            "--dataset, --split, --ways, --shots and --queries."
        )
    if dataset is None and split == "test":
        data = like.dataset
    elif dataset is None and split == "validation":
        tasks = run.experiment.validation
        data = tasks.dataset if isinstance(tasks, FewShot) else like.dataset
    elif dataset is None:
        tasks = run.experiment.train
        data = tasks.dataset if isinstance(tasks, FewShot) else like.dataset
    else:
        data = _data(dataset, split, tuple(like.dataset.x.shape[1:]))
    tasks = FewShot(
        data,
        ways or like.ways[1],
        shots or like.shots[1],
        queries or like.queries,
        rotations=like.rotations if dataset is None else None,
        normalise=like.normalise,
    )
    return recipes.Benchmark(
        tasks, first.settings, first.metrics, first.n_tasks, first.meta_batch_size
    )


def _data(name: str, split: str, shape: tuple[int, ...]) -> Labelled:
    """A data set by name, or a folder of images, as images of `shape`."""
    channels, height, width = shape
    if Path(name).is_dir():
        return datasets.folder(
            name,
            size=(height, width),
            channels=channels,  # pyright: ignore[reportArgumentType]
        )
    known = _datasets()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
        raise ValueError(f"There is no data set or folder {name!r}. {hint}")
    data = datasets.digits(size=height) if name == "digits" else getattr(datasets, name)()
    chosen = data if isinstance(data, Labelled) else getattr(data, split)
    if tuple(chosen.x.shape[1:]) != shape:
        raise ValueError(
            f"The images of {name} are {tuple(chosen.x.shape[1:])}, the learner takes {shape}."
        )
    return chosen


def _shape(run: recipes.Run) -> tuple[int, ...]:
    """(channels, height, width) of the images that a run's learner takes."""
    tasks = next(iter(run.experiment.benchmarks.values())).tasks
    if not isinstance(tasks, FewShot) or tasks.dataset.x.ndim != 4:
        raise ValueError(f"The learner of recipe {run.recipe} does not take images.")
    return tuple(tasks.dataset.x.shape[1:])


def _read(file: Path, size: tuple[int, int], channels: int) -> torch.Tensor:
    from PIL import Image, UnidentifiedImageError

    from quickstudy.datasets.pictures import to_pixels

    try:
        with Image.open(file) as image:
            pixels = to_pixels(image, size, channels)  # pyright: ignore[reportArgumentType]
            return torch.from_numpy(pixels.copy())
    except UnidentifiedImageError:
        raise ValueError(f"{file} is not an image that Pillow can read.") from None


def _is_image(file: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _files(place: Path, *, within: bool = False) -> list[Path]:
    """An image file, or those in a folder and, `within`, in its folders."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ValueError(f"There is no file or folder {place}: name images that there are.")
    found = sorted(place.rglob("*") if within else place.iterdir())
    hidden = {f for f in found if any(p.startswith(".") for p in f.relative_to(place).parts)}
    files = [file for file in found if file.is_file() and file not in hidden]
    if not files:
        raise ValueError(f"There are no images in {place}: name a folder that has some.")
    return files


def _images(run: recipes.Run, files: Sequence[Path], invert: bool) -> Any:
    """Bytes (N, channels, height, width), as the run's learner takes images."""
    channels, *size = _shape(run)
    read = {file: _read(file, (size[0], size[1]), channels) for file in dict.fromkeys(files)}
    if not read:
        raise ValueError("None of the files is an image that Pillow can read: name some.")
    return _pixels(torch.stack([read[file] for file in files]), invert)


def _to_choose_by(run: recipes.Run, support: Path | None, invert: bool) -> tuple[Any, Any]:
    """Images and labels: those of a folder, or some that the recipe validates with."""
    channels, *size = _shape(run)
    if support is not None:
        data = datasets.folder(
            support,
            size=(size[0], size[1]),
            channels=channels,  # pyright: ignore[reportArgumentType]
        )
        return _pixels(data.x, invert), data.y.numpy()
    tasks = run.experiment.validation
    if not isinstance(tasks, FewShot):
        raise ValueError(
            f"Recipe {run.recipe} does not validate with classes of images: give --support, a "
            "folder of class folders of your own."
        )
    data = tasks.dataset
    classes = torch.randperm(len(data.classes), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([(data.y == c).nonzero().flatten()[:5] for c in classes[:20]])
    return data.x[rows].numpy(), data.y[rows].numpy()


def _pixels(x: torch.Tensor, invert: bool) -> Any:
    return (255 - x if invert else x).numpy()


def _first(experiment: recipes.Experiment) -> Task[Any]:
    return next(iter(batches(experiment.train, experiment.meta_batch_size, steps=1)))


def _learners() -> dict[str, str]:
    return {
        name.rpartition(".")[2]: _headline(importlib.import_module(name))
        for _, name, package in pkgutil.walk_packages(
            learners.__path__, f"{learners.__name__}."
        )
        if not package
    }


def _datasets() -> dict[str, str]:
    """Those that a name alone gives."""
    named = ("caltech101", "digits", "emoji", "glyphs", "omniglot")
    return {name: _headline(getattr(datasets, name)) for name in named}


def _recipes() -> dict[str, str]:
    return {name: _headline(recipes.find(name)) for name in recipes.names()}


def _results() -> dict[str, str]:
    """Of every stored result, its numbers."""
    return {name: "; ".join(_rows(result)) for name, result in recipes.stored().items()}


def _rows(result: Json) -> Iterator[str]:
    """A line for each row of a result."""
    for row, metrics in result["measured"].items():
        numbers = {metric: v for metric, v in metrics.items() if metric != "card"}
        yield f"{row}: " + ", ".join(
            _said(m, v["mean"], v["interval"]) for m, v in numbers.items()
        )


def _headline(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def _said(metric: str, mean: float | None, interval: float | None = None) -> str:
    return f"{metric} {'not finite' if mean is None else console.said(metric, mean, interval)}"


def _dumps(data: Json) -> str:
    return json.dumps(data, indent=1)


def _print_json(data: Json) -> None:
    print(_dumps(data))
