"""Memory-augmented neural networks on Omniglot (Santoro et al., 2016, table 1).

The protocol of presentations: 50 images of 5 characters, 10 of each, come one by one in random
order with labels that are new in every episode; each is guessed before it is told. A row is the
accuracy at one presentation of a class. The LSTM of 200 has a memory of `slots` slots of 40,
with 4 heads; with 0 slots it is the LSTM alone. 1,200 characters at random are for training and
validation, 423 for test; turned by 90, 180 and 270 degrees, each is another class.

Differs: images of 28 x 28 go through a strided convolutional net of width 64, normalised by
running statistics, where the paper's of 20 x 20 go to the controller as they are; they are not
shifted at random. 100 of the 1,200 characters are kept
for validation, which is of the second half of a sequence, the first half being told. The paper
trains for 100,000 episodes by RMSProp at 1e-4; the default here is what one CPU core does in a
quarter of an hour, 1,100 steps of 16 episodes (18 %) by Adam, with the rate falling by a cosine
and the norm of the gradient clipped.
"""

import torch

import quickstudy as qs
from quickstudy.presentations import accuracy_at
from quickstudy.recipe import Experiment, Test

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


def recipe(
    *,
    slots: int = 128,
    ways: int = 5,
    steps: int = 1_100,
    size: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
) -> Experiment:
    data = qs.datasets.omniglot(convention="characters")

    def tasks(split: qs.datasets.Labelled) -> qs.Presentations:
        return qs.Presentations(qs.FewShot(split, ways, 5, 5, rotations="classes"))

    embed = qs.nets.Conv4(pool="stride")
    inputs = embed.width + ways
    machine = (
        qs.LRUA(inputs, ways, slots=slots)
        if slots
        else qs.StackedLSTM(inputs, ways, hidden=200, layers=1)
    )
    learner = qs.MANN(embed, machine)
    optimizer = torch.optim.Adam(learner.parameters(), lr)

    def test(presentation: int) -> Test:
        metrics = {"accuracy": accuracy_at(presentation)}
        judge = qs.evaluate_presentations
        return Test(tasks(data.test), metrics=metrics, count=600, judge=judge)

    return Experiment(
        learner,
        tasks(data.train),
        tasks(data.validation),
        {f"{name} presentation": test(number) for number, name in ORDINALS.items()},
        optimizer,
        steps,
        size,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-5),
        clip=10.0,
        validate=max(1, steps // 15),
        validation_count=200,
    )
