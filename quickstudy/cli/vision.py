"""Images without class labels: `quickstudy verify` and `quickstudy cluster`."""

import csv
import sys
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import Positional, arg

from quickstudy import runs
from quickstudy.cli.options import AsJson, Invert, RunFolder, SkipUnreadable, dumps
from quickstudy.cli.pictures import image_files, image_shape, is_image, read_folder, read_images
from quickstudy.estimators import clustering
from quickstudy.estimators.verifier import FewShotVerifier
from quickstudy.tasks.few_shot import FewShot


def verify(
    run: RunFolder,
    a: Positional[Annotated[Path, arg(metavar="A")]],
    b: Positional[Annotated[Path, arg(metavar="B")]],
    *,
    support: Path | None = None,
    max_false_accept_rate: float | None = None,
    invert: Invert = False,
    as_json: AsJson = False,
) -> None:
    """Decide whether two images show the same class.

    Each image of A is compared with each image of B. Their classes may be new to the run. The
    decision threshold is calibrated on labelled examples: on validation classes of the recipe
    or, better, on examples of your own.

    Example: quickstudy verify runs/glyphs_protonet one.png two.png --support my_letters

    Args:
        a: Image file, or folder of images.
        b: Image file, or folder of images.
        support: Folder of folders of images, one per class, to calibrate on. At least one class
            needs two images.
        max_false_accept_rate: Largest share of pairs of two classes that may be accepted, such
            as 0.01. Default: the threshold of equal error rates.
    """
    base = runs.reopen(run)
    shape = image_shape(base)
    pairs = list(product(image_files(a), image_files(b)))
    verifier = FewShotVerifier(
        base.experiment.learner, max_false_accept_rate=max_false_accept_rate
    )
    verifier.fit(*_calibration_set(base, support, invert))
    left, right = (
        read_images(files, shape, invert=invert) for files in zip(*pairs, strict=True)
    )
    decisions = [
        {"a": str(one), "b": str(two), "score": score, "same": score >= verifier.threshold_}
        for (one, two), score in zip(
            pairs, verifier.decision_function(left, right).tolist(), strict=True
        )
    ]
    same, different = verifier.pairs_
    if as_json:
        calibration = {
            "threshold": verifier.threshold_,
            "false_accept_rate": verifier.false_accept_rate_,
            "false_reject_rate": verifier.false_reject_rate_,
            "equal_error_rate": verifier.equal_error_rate_,
            "chosen_by": {"pairs_of_one_class": same, "pairs_of_two": different},
        }
        return print(dumps({**calibration, "pairs": decisions}))
    for pair in decisions:
        label = "same" if pair["same"] else "different"
        print(f"{pair['a']}, {pair['b']}: {label}  (score {pair['score']:.3f})")
    print(
        f"Threshold: {verifier.threshold_:.3f}. On the pairs that it was calibrated on, it "
        f"accepts {verifier.false_accept_rate_:.1%} of {different} pairs of two classes and "
        f"rejects {verifier.false_reject_rate_:.1%} of {same} pairs of one class."
    )


def cluster(
    run: RunFolder,
    images: Positional[Annotated[Path, arg(metavar="IMAGES")]],
    *,
    clusters: int | None = None,
    out: Path | None = None,
    invert: Invert = False,
    skip_unreadable: SkipUnreadable = False,
    as_json: AsJson = False,
) -> None:
    """Group unlabelled images by similarity.

    Example: quickstudy cluster runs/glyphs_protonet my_images --out groups.csv

    Args:
        images: Folder of image files, which may lie in folders within it.
        clusters: Number of groups. Default: the number from 2 to 20 that fits best.
        out: File for the groups: .csv (image, group) or .json (the images of each group).
    """
    if out is not None and out.suffix not in (".csv", ".json"):
        raise ValueError(f"{out} is neither .csv nor .json: end its name by one of these.")
    base = runs.reopen(run)
    files = image_files(images, recursive=True)
    if skip_unreadable:
        files = [file for file in files if is_image(file)]
    labels = clustering.cluster(
        base.experiment.learner, read_images(files, image_shape(base), invert=invert), clusters
    )
    groups = [
        [str(file) for file, label in zip(files, labels, strict=True) if label == group]
        for group in range(max(labels) + 1)
    ]
    if out is not None:
        _write(out, groups)
        print(f"{out}: {len(files)} images in {len(groups)} groups", file=sys.stderr)
    if as_json:
        return print(dumps({"groups": groups}))
    for number, group in enumerate(groups, 1):
        print(f"group {number} ({len(group)}): {', '.join(group)}")


def _write(path: Path, groups: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        if path.suffix == ".json":
            file.write(dumps({"groups": groups}) + "\n")
        else:
            rows = csv.writer(file)
            rows.writerow(["image", "group"])
            rows.writerows((name, k) for k, group in enumerate(groups, 1) for name in group)


def _calibration_set(
    run: runs.Run, support: Path | None, invert: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a folder, or of 20 of the recipe's validation classes."""
    if support is not None:
        data = read_folder(support, image_shape(run), invert=invert)
        return data.x.numpy(), data.y.numpy()
    tasks = run.experiment.validation
    if not isinstance(tasks, FewShot):
        raise ValueError(
            f"Recipe {run.recipe} does not validate with classes of images. Give --support, a "
            "folder of folders of images, one per class."
        )
    data = tasks.dataset
    classes = torch.randperm(len(data.classes), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([(data.y == c).nonzero().flatten()[:5] for c in classes[:20]])
    return data.x[rows].numpy(), data.y[rows].numpy()
