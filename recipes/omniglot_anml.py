"""OML and ANML on Omniglot: many new classes, one after another (Beaulieu et al., 2020).

The protocol of ANML's paper. Meta-training: 20 images of one character are learned by a step of
gradient descent each; the meta-loss is that on these and on 64 random images of all characters.
Test: 15 images of each of `classes` characters of new alphabets come once, class after class,
with a step for each; the score is that on 5 other images of each, at the end. "shuffled" is the
same in random order, which needs no memory of long ago. The rate of these steps is chosen on
alphabets for validation, with each checkpoint that is tested.

Differs: 813 characters of 25 background alphabets are trained on, and those of the other 5 are
for validation, where the paper trains on 963. 100 new classes are learned by default, 600 with
`classes=600` as in the paper; its number for OML is from before the meta-gradient of OML's code
was right (since then its authors report the results of ANML). A net has three convolutions of
64 channels, each normalised per image, on 28 x 28 pixels; the paper's have 256, and 112 in the
gate. Only the head is changed in the inner loop of meta-training, at a rate of 0.01 (0.1 in the
paper). The paper trains 20,000 steps; the default is what one CPU core does in a quarter of an
hour, 4,500, with the rate of Adam falling by a cosine.

"fine_tuning" and "experience_replay" are what the stream gives without meta-training: the same
net from random weights, all of which learn, by steps on five images (and five of the past, of
500 that are kept).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, nn

import quickstudy as qs
from quickstudy.core.tree import tree_map
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_{learner}"
PAPER = {
    "omniglot_anml": {
        "600 classes": {"accuracy": 0.638},
        "600 classes, shuffled": {"accuracy": 0.71},
    },
    "omniglot_oml": {"600 classes": {"accuracy": 0.442}},
}
Name = Literal["anml", "oml", "fine_tuning", "experience_replay"]
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


class InOrder(qs.TaskDistribution):
    """Few-shot tasks whose support sets come class after class."""

    def __init__(self, tasks: qs.FewShot):
        self.tasks = tasks

    def sample(self, n_tasks: int, generator: Generator) -> qs.Task:
        support, query = self.tasks.sample(n_tasks, generator)
        order = support.y.argmax(-1).argsort(dim=1, stable=True)  # (T, S)
        place = torch.arange(n_tasks)[:, None]
        return qs.Task(tree_map(lambda leaf: leaf[place, order], support), query)

    def card(self) -> dict[str, object]:
        return {**self.tasks.card(), "tasks": "few-shot, class after class"}


def conv3(channels: int = 64) -> nn.Sequential:
    """(N, 1, 28, 28) -> (N, 9 * channels)."""
    layers: list[nn.Module] = []
    for entering in (1, channels, channels):
        layers += [nn.Conv2d(entering, channels, 3, padding=1)]
        layers += [nn.InstanceNorm2d(channels, affine=True), nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def recipe(
    *,
    learner: Name = "anml",
    classes: int = 100,
    shots: int = 20,
    remember: int = 64,
    channels: int = 64,
    inner_lr: float = 0.01,
    steps: int = 4_500,
    meta_batch_size: int = 1,
    lr: float = 1e-3,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        learner: learning algorithm; the last two are not meta-trained.
        classes: classes per stream at test.
        shots: images per trajectory in training.
        remember: random images of all classes in the meta-loss.
        channels: channels of each convolution.
        inner_lr: learning rate of inner steps in training.
        steps: meta-training steps.
        meta_batch_size: trajectories per meta-training step.
        lr: learning rate of Adam at the start.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="lake")
    train = qs.tasks.OnlineTrajectoryTasks(data.train, 1, shots, remember)
    width, embed = 9 * channels, conv3(channels)
    head = partial(nn.Linear, width)
    gate = nn.Sequential(conv3(channels), head(width))
    options: dict[Name, Callable[[], qs.Learner[Any]]] = {
        "anml": lambda: qs.anml(embed, gate, width, train.classes, lr=inner_lr),
        "oml": lambda: qs.OML(embed, width, train.classes, lr=inner_lr),
        "fine_tuning": lambda: qs.FineTuning(nn.Sequential(embed, head(classes)), batch_size=5),
        "experience_replay": lambda: qs.ExperienceReplay(
            nn.Sequential(embed, head(classes)), batch_size=5, memory_size=500
        ),
    }
    if learner not in options:
        raise ValueError(f"learner={learner!r}: choose one of {', '.join(options)}.")
    chosen = options[learner]()
    chosen.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    chosen.execution = "loop"  # one trajectory a step
    optimizer = torch.optim.Adam(chosen.parameters(), lr)

    known = min(classes, len(data.validation.classes))
    validation = qs.FewShot(data.validation, known, 15, 5)
    settings: dict[str, float] = {}

    def choose() -> None:
        def score(rate: float) -> float:
            setattr(chosen, "lr", rate)  # noqa: B010
            return qs.evaluate(chosen, InOrder(validation), n_tasks=4, meta_batch_size=1).mean(
                "accuracy"
            )

        settings["lr"] = max(RATES, key=score)

    new = qs.datasets.split_examples(data.test, per_class=15, seed=0)
    stream = partial(qs.tasks.class_incremental, *new, per_task=1, tasks=classes, examples=15)
    return Experiment(
        chosen,
        train,
        InOrder(qs.FewShot(data.validation, 50, 15, 5)),
        {
            f"{classes} classes": Benchmark(
                qs.tasks.Streams(stream),
                settings,
                n_tasks=10,
                meta_batch_size=1,
                evaluate_fn=partial(qs.evaluation.stream_report, every=max(1, classes // 20)),
            ),
            f"{classes} classes, shuffled": Benchmark(
                qs.FewShot(data.test, classes, 15, 5), settings, n_tasks=10, meta_batch_size=1
            ),
        },
        optimizer,
        steps if learner in ("anml", "oml") else 0,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        clip=10.0,
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=4,
        on_reopen=choose,
    )
