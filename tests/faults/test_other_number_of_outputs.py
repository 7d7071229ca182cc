"""A net of more or fewer outputs than the tasks have classes: refused in words, or right."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quickstudy as qs
from quickstudy.core.criteria import OutputMismatch
from quickstudy.datasets import split_examples
from quickstudy.learners.gradient.proto_maml import ProtoMAML
from quickstudy.learners.lifelong.oml import OML
from quickstudy.learners.lifelong.streaming_lda import StreamingLDA
from quickstudy.learners.memory.life_long_memory import LifeLongMemory
from quickstudy.learners.memory.mann import LRUA
from quickstudy.learners.memory.memory_network import MemoryNetwork
from quickstudy.tasks import class_incremental
from tests.faults.test_small_weights_in_learners import NAMES
from tests.zoo import ZOO

ANY_WAYS = (ProtoMAML, StreamingLDA, LifeLongMemory, MemoryNetwork)


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_training_is_refused_in_words(name: str, change: int):
    entry = ZOO[name]
    batch, learner = entry.tasks.sample(2, torch.Generator().manual_seed(0)), entry.learner()
    columns = batch.support.y.shape[-1] + change
    if columns == 0:
        pytest.skip("one target")

    def resized(part: qs.Examples) -> qs.Examples:
        y = part.y.argmax(-1) % columns
        return part._replace(y=F.one_hot(y, columns).to(part.y))

    tasks = qs.Task(*map(resized, batch))
    if isinstance(learner, ANY_WAYS) and name != "memory_network_stories":
        assert learner(tasks).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"{columns}|ways") as error:
        learner(tasks)
    assert isinstance(error.value, OutputMismatch) or name.startswith("snail")


@pytest.mark.parametrize(
    "make",
    [
        qs.AGEM,
        qs.DarkExperienceReplay,
        qs.EWC,
        qs.ExperienceReplay,
        qs.FineTuning,
        qs.GDumb,
        qs.Joint,
        qs.LaMAML,
        qs.LearningWithoutForgetting,
        qs.MER,
        qs.SynapticIntelligence,
    ],
)
def test_streams_of_fewer_classes_are_refused_and_estimators_take_them(
    make: type[qs.FineTuning],
):
    train, test = split_examples(qs.datasets.digits(), 0.7)
    streams = qs.tasks.Streams(partial(class_incremental, train, test, examples=4, tasks=2))
    torch.manual_seed(0)
    learner = make(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(OutputMismatch, match=r"10\).*4\)"):
        qs.evaluation.evaluate_stream(learner, streams, n_tasks=1)

    # the estimator: labels of ten columns, and probabilities among the classes it knows
    x, labels = torch.rand(12, 1, 8, 8).numpy(), [0, 1, 2] * 4
    examples = qs.Examples(
        torch.as_tensor(x), F.one_hot(torch.tensor(labels), 10).float(), torch.ones(12)
    )
    classifier = qs.FewShotClassifier(learner).fit(x, labels)
    found = torch.from_numpy(classifier.predict_proba(x)).float()
    logits = learner.predict(learner.adapt(examples), examples.x)[:, :3]
    torch.testing.assert_close(found, logits.softmax(-1).detach(), rtol=1e-3, atol=1e-4)


def test_a_cell_names_how_many_classes_it_has():
    torch.manual_seed(0)
    cell = LRUA(4 + 5, 5, hidden=8, slots=5, width=4, heads=1)
    learner = qs.MANN(nn.Identity(), cell)
    examples = qs.Examples(torch.randn(6, 4), torch.eye(3).repeat(2, 1), torch.ones(6))
    with pytest.raises(OutputMismatch, match=r"\(6, 5\).*\(6, 3\)") as error:
        learner.adapt(examples)
    assert error.value.outputs == 5
    padded = examples._replace(y=F.pad(examples.y, (0, 2)))
    classifier = qs.FewShotClassifier(learner).fit(examples.x.numpy(), [0, 1, 2, 0, 1, 2])
    found = torch.from_numpy(classifier.predict_proba(examples.x.numpy())).float()
    right = learner.predict(learner.adapt(padded), examples.x)[:, :3].softmax(-1)
    torch.testing.assert_close(found, right.detach(), rtol=1e-3, atol=1e-4)


def test_a_head_of_oml_takes_new_classes_in_a_stream_but_not_in_training():
    learner = OML(nn.Identity(), features=3, classes=4)
    examples = qs.Examples(torch.eye(3), torch.eye(3), torch.ones(3))
    assert learner.predict(learner.adapt(examples), examples.x).shape == (3, 3)
    with pytest.raises(OutputMismatch, match=r"\(3, 4\).*\(3, 3\)"):
        learner.loss(qs.Task(examples, examples))


def test_a_process_names_how_many_values_it_predicts():
    learner = qs.ConditionalNeuralProcess(inputs=1, outputs=2, width=8)
    examples = qs.Examples(torch.zeros(4, 1), torch.zeros(4, 3), torch.ones(4))
    with pytest.raises(OutputMismatch, match=r"\(4, 2\).*\(4, 3\)"):
        learner.adapt(examples)
