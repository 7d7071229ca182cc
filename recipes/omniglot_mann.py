"""Memory-augmented neural networks on Omniglot (Santoro et al., 2016, table 1).

The protocol of presentations: 50 images of 5 characters, 10 of each, come one by one in random
order with labels that are new in every episode; each is predicted before its label is shown. A
row is the accuracy at one presentation of a class. The LSTM of 200 has a memory of `slots`
slots of 40, with 4 heads; with 0 slots it is the LSTM alone. 1,200 characters at random are for
training and validation, 423 for test; turned by 90, 180 and 270 degrees, each is another class.

Differs: images of 28 x 28 go through a strided convolutional net of width 64, where the paper's
of 20 x 20 go to the controller as they are; they are not shifted at random. A second loss, that
of prototypes, trains this net to separate characters from the start (`Guided`): the machine
trains it little until it uses its memory. With `show_label_with_input` the machine receives the
embedding a second time, together with its label. In training both halves of an episode have
five images of every character, and images are normalised by all of a step; at test by running
statistics. 100 of the 1,200 characters are kept for validation, which is of the second half of
a sequence, the first half being shown with labels. The paper trains for 100,000 episodes by
RMSProp at 1e-4; the default here is what one CPU core does in 17 minutes, 2,200 steps of 16
episodes (35 %) by Adam at a rate that falls by a cosine, in bfloat16, the norm of the gradient
clipped.
"""

from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.evaluation.presentations import accuracy_at
from quickstudy.learners.memory.mann import MANNState
from quickstudy.nets.cells import RecurrentCell
from quickstudy.runs.recipes import Benchmark, Experiment

RESULT = "omniglot_mann_{slots}"
ORDINALS = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 5: "5th", 10: "10th"}
PAPER = {
    "omniglot_mann_128": {
        "1st presentation": {"accuracy": 0.364},
        "2nd presentation": {"accuracy": 0.828},
        "3rd presentation": {"accuracy": 0.910},
        "4th presentation": {"accuracy": 0.926},
        "5th presentation": {"accuracy": 0.949},
        "10th presentation": {"accuracy": 0.981},
    }
}


class Guided(qs.Learner[MANNState]):
    """MANN, whose embedding learns from the loss of prototypes too, on the same images."""

    def __init__(
        self, embed: nn.Module, machine: RecurrentCell[Any], *, show_label_with_input: bool
    ):
        super().__init__()
        self.embed = embed
        self.mann = qs.MANN(nn.Identity(), machine, show_label_with_input=show_label_with_input)
        self.guide = qs.PrototypicalNetwork(nn.Identity())

    def adapt(self, support: qs.Examples, state: MANNState | None = None) -> MANNState:
        return self.mann.adapt(self._embedded(support), state)

    def predict(self, state: MANNState, x: Tensor) -> Tensor:
        return self.mann.predict(state, self.embed(x))

    def loss(self, task: qs.Task[qs.Examples]) -> Tensor:
        embedded = self._both(task)
        return self.mann.loss(embedded) + self.guide.loss(embedded)

    def attention_weights(self, task: qs.Task[qs.Examples]) -> dict[str, Tensor]:
        return self.mann.attention_weights(self._both(task))

    def _embedded(self, examples: qs.Examples) -> qs.Examples:
        return examples._replace(x=self.embed(examples.x))

    def _both(self, task: qs.Task[qs.Examples]) -> qs.Task[qs.Examples]:
        return qs.Task(self._embedded(task.support), self._embedded(task.query))


def recipe(
    *,
    slots: int = 128,
    ways: int = 5,
    steps: int = 2_200,
    meta_batch_size: int = 16,
    lr: float = 2e-3,
    show_label_with_input: bool = True,
    bfloat16: bool = True,
    seed: int = 0,
) -> Experiment:
    """Return the experiment.

    Args:
        slots: slots of the memory (0: an LSTM without memory).
        ways: classes per episode.
        steps: meta-training steps.
        meta_batch_size: episodes per training step.
        lr: learning rate of Adam at the start.
        show_label_with_input: show each label together with its own image, too.
        bfloat16: train with the forward pass in bfloat16.
        seed: seed of initial parameters and training tasks.
    """
    data = qs.datasets.omniglot(convention="characters")

    def tasks(split: qs.datasets.Labelled) -> qs.FewShot:
        return qs.FewShot(split, ways, 5, 5, rotations="classes")

    embed = nn.Sequential(qs.nets.Conv4(pool="stride"), nn.LayerNorm(64))
    inputs = (2 if show_label_with_input else 1) * 64 + ways
    machine = (
        qs.learners.memory.LRUA(inputs, ways, slots=slots)
        if slots
        else qs.nets.StackedLSTM(inputs, ways, hidden=200, layers=1)
    )
    learner = Guided(embed, machine, show_label_with_input=show_label_with_input)
    learner.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(presentation: int) -> Benchmark:
        metrics = {"accuracy": accuracy_at(presentation)}
        evaluation = qs.evaluation.evaluate_presentations
        sequences = qs.tasks.Presentations(tasks(data.test))
        return Benchmark(sequences, metrics=metrics, n_tasks=600, evaluate_fn=evaluation)

    return Experiment(
        learner,
        tasks(data.train),
        qs.tasks.Presentations(tasks(data.validation)),
        {f"{name} presentation": test(number) for number, name in ORDINALS.items()},
        optimizer,
        steps,
        meta_batch_size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        clip=10.0,
        precision=torch.bfloat16 if bfloat16 else None,
        validate_every=max(1, steps // 15),
        n_validation_tasks=200,
        embed_together=True,
    )
