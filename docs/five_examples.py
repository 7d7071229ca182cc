"""Draws docs/five_examples.svg: five examples of each class, and what the classifier answers.

python docs/five_examples.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import quickstudy as qs

ROOT = Path(__file__).parent
SHOWN = (0, 1, 2)  # new images, by their place
INK = "#5b6ee1"


def main() -> None:
    """Fit on five examples of each digit and draw the answers for new images."""
    labelled, new = qs.datasets.split_examples(qs.datasets.digits(), per_class=5)
    classifier = qs.FewShotClassifier().fit(labelled.x.numpy(), labelled.y.numpy())
    probabilities = classifier.predict_proba(new.x.numpy())
    figure = plt.figure(figsize=(9, 2.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left.suptitle("five labelled examples of each class", color="gray", fontsize=11)
    right.suptitle("new image, probability of each class", color="gray", fontsize=11)
    grid = left.subplots(5, 10)
    for label, column in enumerate(grid.T):
        images = labelled.x[labelled.y == label]
        for axes, image in zip(column, images, strict=True):
            axes.imshow(image[0], cmap="gray_r")
            axes.axis("off")
        column[0].set_title(label, color="gray", fontsize=10)
    for row, place in zip(
        right.subplots(len(SHOWN), 2, width_ratios=(1, 4)), SHOWN, strict=True
    ):
        row[0].imshow(new.x[place, 0], cmap="gray_r")
        row[0].axis("off")
        row[1].bar(range(10), probabilities[place], color=INK)
        row[1].set(ylim=(0, 1), yticks=[], xticks=range(10))
        row[1].tick_params(colors="gray", labelsize=8, length=0)
        row[1].spines[:].set_visible(False)
    with plt.rc_context({"svg.hashsalt": "quickstudy"}):
        figure.savefig(ROOT / "five_examples.svg", metadata={"Date": None}, transparent=True)
    accuracy = classifier.score(new.x.numpy(), new.y.numpy())
    print(f"accuracy on {len(new)} new images: {accuracy:.3f}")


if __name__ == "__main__":
    main()
