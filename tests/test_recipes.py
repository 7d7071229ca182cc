"""The recipes of several learners: each is built, and all are on equal terms."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import docstring_parser
import pytest
import torch

from quickstudy import runs, train
from quickstudy.core.task import batches


@pytest.fixture(scope="module")
def caltech() -> ModuleType:
    return runs.find("caltech101")


@pytest.fixture(scope="module")
def waves() -> ModuleType:
    return runs.find("sinusoid")


RECIPES = ["caltech101", "copying", "emoji", "omniglot_gradient", "omniglot_lake"]
RECIPES += ["omniglot_metric", "sinusoid"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_learner_can_be_chosen_and_names_its_result(name: str) -> None:
    module = runs.find(name)
    assert set(get_args(module.Name)) == set(module.LEARNERS)
    names = {runs.result_name(module, {"learner": key}) for key in module.LEARNERS}
    assert len(names) == len(module.LEARNERS)
    with pytest.raises(ValueError, match="choose one of"):
        module.recipe(learner="mamel")


@pytest.mark.parametrize("learner", get_args(runs.find("caltech101").Name))
def test_learners_of_photographs_share_net_tasks_and_tests(
    caltech: ModuleType, real_data: Path, learner: Any
) -> None:
    torch.manual_seed(0)
    chosen = caltech.recipe(learner=learner, steps=2, meta_batch_size=1)
    convolutions = {p.shape for p in chosen.learner.parameters() if p.ndim == 4}
    if learner == "relation":  # whose net keeps maps of features
        convolutions.remove((32, 64, 3, 3))
    assert convolutions == {(32, 3, 3, 3), (32, 32, 3, 3)}
    usual = caltech.recipe(learner="maml")
    (test,), (other,) = chosen.benchmarks.values(), usual.benchmarks.values()
    assert test.tasks.card() == other.tasks.card() and test.n_tasks == other.n_tasks
    mine, others = (next(iter(batches(e.train, 1, steps=1))) for e in (chosen, usual))
    if learner not in caltech.FROM_A_CLASSIFIER:
        assert pictures(mine) == pictures(others)
    for step in train(
        chosen.learner, chosen.train, chosen.optimizer, steps=1, meta_batch_size=1
    ):
        assert step.loss.isfinite().all()


def pictures(batch: Any) -> set[tuple[float, ...]]:
    """Which images a task has, in support and query set together."""
    x = torch.cat([batch.support.x[0], batch.query.x[0]]).flatten(1)
    return {tuple(row) for row in torch.stack([x.mean(1), x.std(1), x[:, 99]], 1).tolist()}


@pytest.mark.parametrize("learner", get_args(runs.find("sinusoid").Name))
def test_learners_of_waves_begin_as_maml_and_have_its_tests(
    waves: ModuleType, learner: Any
) -> None:
    maml = waves.recipe(learner="maml")
    torch.manual_seed(0)
    chosen = waves.recipe(learner=learner, steps=2, meta_batch_size=3)
    assert set(chosen.benchmarks) <= set(maml.benchmarks)
    for name, test in chosen.benchmarks.items():
        other = maml.benchmarks[name]
        assert test.tasks.card() == other.tasks.card() and test.n_tasks == other.n_tasks
    for step in train(
        chosen.learner, chosen.train, chosen.optimizer, steps=2, meta_batch_size=3
    ):
        assert step.loss.isfinite().all()


@pytest.mark.parametrize("learner", get_args(runs.find("emoji").Name))
def test_learners_of_emoji_share_tasks_and_tests(real_data: Path, learner: Any) -> None:
    module = runs.find("emoji")
    torch.manual_seed(0)
    chosen, usual = (module.recipe(learner=name, steps=2) for name in (learner, "prototypical"))
    for name, test in chosen.benchmarks.items():
        other = usual.benchmarks[name]
        assert test.tasks.card() == other.tasks.card() and test.n_tasks == other.n_tasks
    for step in train(
        chosen.learner, chosen.train, chosen.optimizer, steps=1, meta_batch_size=2
    ):
        assert step.loss.isfinite().all()


@pytest.mark.parametrize("learner", get_args(runs.find("omniglot_lake").Name))
def test_no_evaluation_alphabet_is_trained_on(real_data: Path, learner: Any) -> None:
    module = runs.find("omniglot_lake")
    torch.manual_seed(0)
    chosen = module.recipe(learner=learner, ways=3, queries=1, steps=1)
    assert len(chosen.train.dataset.classes) == 964
    within, others = (test.tasks for test in chosen.benchmarks.values())
    assert not {*chosen.train.dataset.classes} & {*others.dataset.classes}
    assert within.card()["number"] == 20 and chosen.benchmarks[module.RUNS].n_tasks == 20
    for step in train(
        chosen.learner, chosen.train, chosen.optimizer, steps=1, meta_batch_size=1
    ):
        assert step.loss.isfinite().all()


@pytest.mark.parametrize("labels", ["fixed", "shuffled"])
def test_alphabets_come_again_by_other_drawers(real_data: Path, labels: Any) -> None:
    module = runs.find("alphabets_task_memory")
    torch.manual_seed(0)
    made = module.recipe(
        labels=labels, steps=1, meta_batch_size=2, channels=4, past=8, past_steps=1
    )
    assert made.on_reopen is not None
    for step in train(made.learner, made.train, made.optimizer, steps=1, meta_batch_size=2):
        assert step.loss.isfinite().all()
    made.on_reopen()
    assert made.learner.count == 8
    test = next(iter(made.benchmarks.values())).tasks
    assert not {*made.train.dataset.group_names} & {*test.dataset.group_names}
    classes = {key: int(y) for key, y in zip(keys(test.dataset.x), test.dataset.y, strict=True)}
    assert sorted({*classes.values()}) == list(range(5 * 20)) and len(classes) == 10 * 5 * 20
    past = [key for support in made.learner.supports.values() for key in keys(support.x * 255)]
    assert len(past) == 8 * 5 and not {*past} & {*classes}
    query = test.sample(50, torch.Generator().manual_seed(0)).query
    drawn = torch.tensor([classes[key] for key in keys(query.x.flatten(0, 1) * 255)])
    same = drawn % 5 == query.y.argmax(-1).flatten()  # of the five characters of its alphabet
    assert same.all() if labels == "fixed" else 0.1 < same.double().mean() < 0.3


def keys(images: torch.Tensor) -> list[bytes]:
    """What tells images of 0 to 255 apart."""
    return [image.numpy().tobytes() for image in images.round().byte()]


def test_a_result_is_compared_with_the_numbers_of_its_own() -> None:
    lake, gradient = runs.find("omniglot_lake"), runs.find("omniglot_gradient")
    assert runs.published(lake, {"learner": "siamese"})[lake.RUNS] == {"accuracy": 0.92}
    assert lake.RUNS not in runs.published(lake, {"learner": "matching"})
    assert runs.published(gradient, {}) == gradient.PAPER["omniglot_maml"]
    cavia = runs.find("omniglot_cavia")
    assert runs.published(cavia, {}) == cavia.PAPER


@pytest.mark.parametrize("learner", get_args(runs.find("omniglot_gradient").Name))
def test_learners_that_descend_share_tasks(real_data: Path, learner: Any) -> None:
    module = runs.find("omniglot_gradient")
    chosen, usual = (module.recipe(learner=name, steps=2) for name in (learner, "maml"))
    assert chosen.train.card() == usual.train.card()
    test, other = (e.benchmarks["5-way 1-shot"] for e in (chosen, usual))
    assert test.tasks.card() == other.tasks.card() and test.n_tasks == other.n_tasks
    for step in train(
        chosen.learner, chosen.train, chosen.optimizer, steps=1, meta_batch_size=1
    ):
        assert step.loss.isfinite().all()


@pytest.mark.parametrize("learner", get_args(runs.find("omniglot_metric").Name))
def test_learners_that_compare_share_tests(real_data: Path, learner: Any) -> None:
    module = runs.find("omniglot_metric")
    chosen = module.recipe(learner=learner, ways=3, shots=1, queries=2, steps=1)
    usual = module.recipe()
    for name, test in chosen.benchmarks.items():
        assert test.tasks.card() == usual.benchmarks[name].tasks.card()
    for step in train(
        chosen.learner, chosen.train, chosen.optimizer, steps=1, meta_batch_size=1
    ):
        assert step.loss.isfinite().all()


@pytest.mark.parametrize("name", runs.names())
def test_every_setting_of_a_recipe_has_a_help_text(name: str) -> None:
    recipe = runs.find(name).recipe
    texts = {p.arg_name: p.description for p in docstring_parser.parse(recipe.__doc__).params}
    assert list(texts) == list(inspect.signature(recipe).parameters)
    for text in texts.values():
        assert text and text.endswith(".") and "\n" not in text
