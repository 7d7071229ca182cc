"""`quickstudy adapt`: teach a learner classes of your own."""

import sys
from pathlib import Path

import torch

from quickstudy import runs
from quickstudy.cli.options import Invert, RunFolder, SkipUnreadable
from quickstudy.cli.pictures import image_shape, read_folder
from quickstudy.core.task import batches
from quickstudy.estimators.classifier import FewShotClassifier
from quickstudy.evaluation.protocol import is_transductive


def adapt(
    run: RunFolder,
    *,
    support: Path,
    out: Path,
    invert: Invert = False,
    skip_unreadable: SkipUnreadable = False,
) -> None:
    """Adapt the learner of a run to your own classes of images.

    Example: quickstudy adapt runs/glyphs_protonet --support my_letters --out my.safetensors

    Args:
        support: Folder of folders of images, one per class, named as the class.
        out: File for the adapted model. It is small, as it refers to the run for the rest.
    """
    base = runs.reopen(run)
    learner = base.experiment.learner
    data = read_folder(
        support, image_shape(base), invert=invert, skip_unreadable=skip_unreadable
    )
    labels = [data.classes[i] for i in data.y.tolist()]
    classifier = FewShotClassifier(learner).fit(data.x.numpy(), labels)
    task = next(iter(batches(base.experiment.train, base.experiment.meta_batch_size, steps=1)))
    with torch.no_grad():
        transductive = is_transductive(learner.eval(), task)
    classifier.save(out, run=str(run.resolve()), invert=invert, transductive=transductive)
    print(f"{out}: {len(data.classes)} classes from {len(labels)} images", file=sys.stderr)
    print(f"Use it: quickstudy predict {out} IMAGE...", file=sys.stderr)
