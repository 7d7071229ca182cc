"""`quickstudy predict`: the class of each image.

One image is predicted in little more than the time that PyTorch takes to import, so this file
needs neither scikit-learn nor `torch._dynamo`.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
from torch.optim import Optimizer
from tyro.conf import Positional, arg

from quickstudy import runs
from quickstudy.cli.options import AsJson, dumps
from quickstudy.cli.pictures import image_shape, read_images
from quickstudy.estimators.adapted_model import (
    predictions,
    read_model,
    reference_tensor,
    restore,
)


def predict(
    model: Positional[Annotated[Path, arg(metavar="MODEL")]],
    images: Positional[Annotated[tuple[Path, ...], arg(metavar="IMAGE")]],
    *,
    run: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Predict the class of each image, with probabilities.

    Example: quickstudy predict my.safetensors one.png two.png

    Args:
        model: File written by `quickstudy adapt`.
        images: Image files.
        run: Folder of the run that the model was adapted from, if it has moved since.
    """
    facts = read_model(model)[0]["facts"]
    with without_dynamo():
        base = runs.reopen(facts["run"] if run is None else run)
    learner = base.experiment.learner
    about, state = restore(model, learner, "FewShotClassifier")
    pixels = read_images(images, image_shape(base), invert=facts["invert"])
    x = torch.from_numpy(pixels).to(reference_tensor(learner)) / 255
    logits = predictions(learner, state, x, about["seed"])[:, about["targets"]["columns"]]
    classes = [str(label) for label in about["targets"]["labels"]]
    if facts["transductive"]:
        print(
            "Note: this learner classifies the images of one call jointly (it is "
            "transductive). Pass images of every class at once, not one alone.",
            file=sys.stderr,
        )
    answers = [
        {
            "image": str(file),
            "label": classes[row.index(max(row))],
            "probabilities": dict(zip(classes, row, strict=True)),
        }
        for file, row in zip(images, logits.softmax(-1).tolist(), strict=True)
    ]
    if as_json:
        return print(dumps(answers))
    for answer in answers:
        ranked = sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])
        best = ", ".join(f"{name} {probability:.1%}" for name, probability in ranked[:5])
        print(f"{answer['image']}: {answer['label']}  ({best})")


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Let optimizers be built without `torch._dynamo`, which takes seconds to import.

    A recipe builds its optimizer even where nothing is trained. `torch.compile` is not used
    here, for which `add_param_group` is wrapped.

    Examples:
        >>> with without_dynamo():
        ...     optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> len(optimizer.param_groups)
        1
    """
    wrapped = Optimizer.add_param_group
    Optimizer.add_param_group = inspect.unwrap(wrapped)
    try:
        yield
    finally:
        Optimizer.add_param_group = wrapped
