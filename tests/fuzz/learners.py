"""Odd nets, shapes, dtypes and weights through every learner.

python -m tests.fuzz.learners --seed 0 --n 2000
"""

import copy
import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy import Examples, Learner, Task
from quickstudy.core.criteria import accuracy, cross_entropy, gaussian_nll, squared_error
from quickstudy.core.similarity import ScaledSimilarity
from quickstudy.core.tree import leaves, tree_map
from quickstudy.evaluation.protocol import evaluate
from quickstudy.inner_loop.descent import steepest_descent
from quickstudy.learners.amortised import SNAIL
from quickstudy.learners.gradient.cavia import ContextInput
from quickstudy.learners.lifelong import (
    AGEM,
    EWC,
    MER,
    OML,
    DarkExperienceReplay,
    ExperienceReplay,
    FineTuning,
    GDumb,
    Joint,
    LaMAML,
    LearningWithoutForgetting,
    StreamingLDA,
    SynapticIntelligence,
)
from quickstudy.learners.memory import (
    LRUA,
    MANN,
    LifeLongMemory,
    MetaNet,
    few_shot_memory_network,
)
from quickstudy.learners.metric import (
    FEAT,
    FullContext,
    MatchingNetwork,
    RelationNetwork,
    RelationReasoning,
    SemiSupervisedPrototypicalNetwork,
    SiameseNetwork,
    WeightedL1,
    contrastive_siamese,
    cosine_prototypical,
    triplet_siamese,
)
from quickstudy.learners.transfer.baseline import baseline, baseline_pp
from quickstudy.nets.backbones import MLP
from tests.fuzz.nets import SHAPES, draw_net
from tests.fuzz.trials import Trial, applies, main, must_refuse, require
from tests.zoo import ZOO

Rng = np.random.Generator
CLASSES, WIDTH = 3, 4


class Kind(NamedTuple):
    """A learner made of a net, and the properties that it promises."""

    make: Callable[[nn.Module], Learner[Any]]
    embeds: bool  # the net is an embedding of width `WIDTH`, not a classifier
    classes_alike: bool = True  # renaming classes permutes predictions
    order_free: bool = True  # the order of the support does not matter
    repeats: bool = True  # a weight of 2 counts as two examples
    exact_gradient: bool = True  # the gradient is that of the loss


def _net(make: Callable[[nn.Module], Learner[Any]], **facts: bool) -> Kind:
    return Kind(make, False, **{"classes_alike": False, **facts})


def _embedding(make: Callable[[nn.Module], Learner[Any]], **facts: bool) -> Kind:
    return Kind(make, True, **facts)


STREAM = {"order_free": False, "repeats": False, "exact_gradient": False}
APPROXIMATE = {"exact_gradient": False}
IN_ORDER = {"order_free": False, "repeats": False}

KINDS: dict[str, Kind] = {
    "maml": _net(lambda net: qs.MAML(net, lr=0.1, steps=2)),
    "maml_checkpointed": _net(lambda net: qs.MAML(net, lr=0.1, steps=3, checkpoint="mixed")),
    "fomaml": _net(lambda net: qs.fomaml(net, lr=0.1, steps=2), **APPROXIMATE),
    "maml_pp": _net(lambda net: qs.MAMLPlusPlus(net, lr=0.1, steps=2)),
    "meta_sgd": _net(lambda net: qs.MetaSGD(net, steps=2)),
    "meta_curvature": _net(lambda net: qs.MetaCurvature(net, lr=0.1, steps=2)),
    "reptile": _net(
        lambda net: qs.Reptile(net, lr=0.05, batch_size=None, optimizer=steepest_descent),
        **APPROXIMATE,
    ),
    "imaml": _net(lambda net: qs.IMAML(net, steps=3, cg_steps=2), **APPROXIMATE),
    "cavia": _net(
        lambda net: qs.CAVIA(
            ContextInput(nn.Sequential(nn.Linear(WIDTH + 2, WIDTH), nn.Tanh(), net)), context=2
        )
    ),
    "fine_tuning": _net(lambda net: FineTuning(net, batch_size=3), **STREAM),
    "joint": _net(lambda net: Joint(net, batch_size=3, epochs=2), **STREAM),
    "experience_replay": _net(
        lambda net: ExperienceReplay(net, batch_size=3, memory_size=4), **STREAM
    ),
    "dark_experience_replay": _net(
        lambda net: DarkExperienceReplay(net, batch_size=3, memory_size=4), **STREAM
    ),
    "ewc": _net(lambda net: EWC(net, batch_size=3), **STREAM),
    "synaptic_intelligence": _net(
        lambda net: SynapticIntelligence(net, batch_size=3), **STREAM
    ),
    "learning_without_forgetting": _net(
        lambda net: LearningWithoutForgetting(net, batch_size=3), **STREAM
    ),
    "a_gem": _net(lambda net: AGEM(net, batch_size=3, memory_size=4), **STREAM),
    "gdumb": _net(lambda net: GDumb(net, batch_size=2, memory_size=3, epochs=2), **STREAM),
    "mer": _net(lambda net: MER(net, n_batches=2, replay_batch_size=1), **STREAM),
    "la_maml": _net(lambda net: LaMAML(net, batch_size=3, glances=1), **STREAM),
    "prototypical": _embedding(qs.PrototypicalNetwork),
    "cosine_prototypical": _embedding(cosine_prototypical),
    "semi_supervised": _embedding(SemiSupervisedPrototypicalNetwork),
    "matching": _embedding(MatchingNetwork),
    "matching_in_full_context": _embedding(
        lambda net: MatchingNetwork(
            net, similarity=ScaledSimilarity(), context=FullContext(WIDTH, steps=1)
        ),
        **IN_ORDER,
    ),
    # absolute values and hinges have kinks
    "siamese": _embedding(
        lambda net: SiameseNetwork(net, WeightedL1(WIDTH)), repeats=False, **APPROXIMATE
    ),
    "siamese_contrastive": _embedding(
        lambda net: contrastive_siamese(net, margin=2.0), repeats=False, **APPROXIMATE
    ),
    "siamese_triplet": _embedding(triplet_siamese, repeats=False, **APPROXIMATE),
    "relation": _embedding(lambda net: RelationNetwork(net, MLP(2 * WIDTH, 1, hidden=(4,)))),
    "relation_reasoning": _embedding(lambda net: RelationReasoning(net, WIDTH, units=4)),
    "feat": _embedding(lambda net: FEAT(net, WIDTH, temperature=1, contrast_temperature=1)),
    "r2d2": _embedding(qs.R2D2),
    "lrd2": _embedding(qs.LRD2),
    "meta_opt_net": _embedding(qs.MetaOptNet, **APPROXIMATE),
    "ridge": _embedding(qs.RidgeRegression),
    "baseline": _embedding(lambda net: baseline(net, WIDTH, CLASSES)),
    "baseline_pp": _embedding(lambda net: baseline_pp(net, WIDTH, CLASSES)),
    "simple_shot": _embedding(lambda net: qs.SimpleShot(net, nn.Linear(WIDTH, CLASSES))),
    "tim": _embedding(lambda net: qs.TIM(net, nn.Linear(WIDTH, CLASSES), lr=0.01, steps=3)),
    "transductive_fine_tuning": Kind(
        lambda net: qs.TransductiveFineTuning(net, steps=2), embeds=False
    ),
    "proto_maml": _embedding(lambda net: qs.ProtoMAML(net, steps=2)),
    "streaming_lda": _embedding(lambda net: StreamingLDA(net, shrinkage=0.1)),
    "life_long_memory": _embedding(
        lambda net: LifeLongMemory(net, memory_size=8), **IN_ORDER, **APPROXIMATE
    ),
    "memory_network": _embedding(lambda net: few_shot_memory_network(net, WIDTH, hops=2)),
    "oml": _embedding(
        lambda net: OML(net, WIDTH, CLASSES, lr=0.1), classes_alike=False, **IN_ORDER
    ),
    "mann": _embedding(
        lambda net: MANN(
            net,
            LRUA(WIDTH + CLASSES, CLASSES, hidden=4, slots=3, width=3, heads=1),
        ),
        classes_alike=False,
        **IN_ORDER,
    ),
    "snail": _embedding(
        lambda net: SNAIL(net, WIDTH, CLASSES, length=20, blocks=((4, 4), 4)),
        classes_alike=False,
        **IN_ORDER,
    ),
    "meta_net": _embedding(
        lambda net: MetaNet(net, copy.deepcopy(net), WIDTH, CLASSES, hidden=4, units=2),
        classes_alike=False,
        **IN_ORDER,
        **APPROXIMATE,
    ),
}


class Drawn(NamedTuple):
    """A learner of the zoo on an odd net, and a batch of tasks for it."""

    kind: Kind
    learner: Learner[Any]
    batch: Task[Examples]
    smooth: bool
    apart: bool

    def task(self, number: int = 0) -> Task[Examples]:
        return tree_map(lambda leaf: leaf[number], self.batch)


def draw(rng: Rng) -> Trial:
    """Draw a property, and a learner and tasks to check it on."""
    name = str(rng.choice(list(PROPERTIES)))
    check = PROPERTIES[name]
    if check in ALONE:
        about = str(rng.integers(2**31))
        return Trial(name, about, lambda: check(np.random.default_rng(int(about))))
    about, make = _of_the_zoo(rng) if rng.random() < 0.25 else _on_an_odd_net(rng)
    number = int(rng.integers(2**31))

    def run() -> None:
        torch.manual_seed(number)
        check(make(), np.random.default_rng(number))

    return Trial(name, about, run)


def _on_an_odd_net(rng: Rng) -> tuple[str, Callable[[], Drawn]]:
    name = str(rng.choice(list(KINDS)))
    kind = KINDS[name]
    shape = (WIDTH,) if name == "cavia" else SHAPES[rng.integers(len(SHAPES))]
    odd = draw_net(rng, shape, WIDTH if kind.embeds else CLASSES)
    batch, words = draw_tasks(rng, shape)

    def make() -> Drawn:
        learner = kind.make(odd.net).double().eval()
        return Drawn(kind, learner, batch, odd.smooth, odd.apart)

    return f"{name} of {odd.about} on {shape}, {words}", make


def _of_the_zoo(rng: Rng) -> tuple[str, Callable[[], Drawn]]:
    """Every learner of the library, on tasks of its own."""
    name = str(rng.choice(list(ZOO)))
    entry, count = ZOO[name], int(rng.integers(1, 4))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    batch = tree_map(
        lambda leaf: leaf.double() if leaf.is_floating_point() else leaf,
        entry.tasks.sample(count, generator),
    )

    def make() -> Drawn:
        learner = entry.make().double().eval()
        kind = Kind(
            lambda net: entry.make(),
            embeds=True,
            classes_alike=learner.classifies and "class order matters" not in entry.declared,
            order_free="order matters" not in entry.declared,
            repeats=False,
            exact_gradient=False,
        )
        return Drawn(kind, learner, batch, False, "padding counts" not in entry.declared)

    return f"{name} of the zoo, {count} tasks", make


def draw_tasks(rng: Rng, shape: tuple[int, ...]) -> tuple[Task[Examples], str]:
    """Draw a batch of one to three tasks in float64, of classes that are clouds."""
    count, shots, queries = (int(rng.integers(1, high)) for high in (4, 4, 5))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    width = math.prod(shape)
    centres = torch.randn(count, CLASSES, width, generator=generator, dtype=torch.float64)
    words = [f"{count} tasks", f"{shots} shots", f"{queries} queries"]
    content = str(rng.choice(["normal", "small", "constant", "twice", "ones"], p=CONTENT))

    def examples(each: int) -> Examples:
        order = torch.stack(
            [
                torch.randperm(CLASSES * each, generator=generator) % CLASSES
                for _ in range(count)
            ]
        )
        noise = torch.randn(*order.shape, width, generator=generator, dtype=torch.float64)
        x = centres[torch.arange(count)[:, None], order] + 0.5 * noise
        match content:
            case "small":
                x = 1e-3 * x
            case "constant":
                x[..., 0] = 1
            case "twice":
                x[:, 1] = x[:, 0]
            case "ones":
                x = torch.ones_like(x)
        y = torch.eye(CLASSES, dtype=x.dtype)[order]
        return Examples(x.unflatten(-1, shape), y, torch.ones_like(x[..., 0]))

    return Task(examples(shots), examples(queries)), ", ".join([*words, content])


CONTENT = [0.6, 0.1, 0.1, 0.1, 0.1]


# Properties


def has_losses_and_shapes(case: Drawn, rng: Rng) -> None:
    losses = case.learner(case.batch)
    require(losses.shape == (len(case.batch.query.x),), f"losses have shape {losses.shape}")
    require(bool(losses.isfinite().all()), f"losses are {losses.tolist()}")
    support, query = case.task()
    prediction = predict(case.learner, support, query.x)
    require(prediction.shape == query.y.shape, f"predictions have shape {prediction.shape}")
    require(not prediction.isnan().any(), "a prediction is NaN")


def vmap_is_a_loop(case: Drawn, rng: Rng) -> None:
    def outcome(execution: Literal["vmap", "loop"], chunk: int | None = None) -> list[Tensor]:
        case.learner.execution, case.learner.chunk = execution, chunk
        case.learner.zero_grad()
        losses = case.learner(case.batch)
        losses.sum().backward()
        grads = [p.grad for p in case.learner.parameters() if p.grad is not None]
        return [losses.detach(), *(grad.clone() for grad in grads)]

    same(outcome("vmap"), outcome("loop"), "vmap and loop differ")
    same(outcome("vmap", 2), outcome("loop"), "chunks and loop differ")


def tasks_are_apart(case: Drawn, rng: Rng) -> None:
    losses = case.learner(case.batch)
    for i in range(len(losses)):
        alone = case.learner(tree_map(lambda leaf, i=i: leaf[i : i + 1], case.batch))
        same([alone], [losses[i : i + 1]], "a task alone has another loss than in a batch")


def weights_are_repetitions(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    applies(case.kind.repeats and case.apart)
    times = torch.from_numpy(rng.integers(1, 4, len(support.x)))
    weighted = support._replace(weight=times.to(support.weight))
    repeated = support.take(torch.arange(len(times)).repeat_interleave(times))
    same(
        [predict(case.learner, weighted, query.x)],
        [predict(case.learner, repeated, query.x)],
        "weights do not count as repetitions",
    )


def query_weights_are_repetitions(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    applies(case.kind.repeats and case.apart and not case.learner.transductive)
    times = torch.from_numpy(rng.integers(1, 4, len(query.x)))
    weighted = query._replace(weight=times.to(query.weight))
    repeated = query.take(torch.arange(len(times)).repeat_interleave(times))
    same(
        [case.learner.loss(Task(support, weighted))],
        [case.learner.loss(Task(support, repeated))],
        "the loss does not count a query of weight 2 as two",
    )


def scale_of_query_weights_does_not_matter(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    applies(case.kind.repeats)
    weight = torch.from_numpy(rng.random(len(query.x)) + 0.1)
    factor = 10.0 ** int(rng.integers(-60, 60))
    same(
        [case.learner.loss(Task(support, query._replace(weight=weight * factor)))],
        [case.learner.loss(Task(support, query._replace(weight=weight)))],
        f"query weights of {factor:g} times the size give another loss",
    )


def padding_counts_for_nothing(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    applies(case.apart)
    rows = torch.from_numpy(rng.integers(0, len(support.x), 2))
    junk = support.take(rows)
    junk = Examples(junk.x * 3 - 1, junk.y.roll(1, -1), torch.zeros_like(junk.weight))
    padded = Examples.cat(support, junk)
    same(
        [predict(case.learner, padded, query.x)],
        [predict(case.learner, support, query.x)],
        "padding changes predictions",
    )


def order_does_not_matter(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    before = predict(case.learner, support, query.x)
    order = torch.from_numpy(rng.permutation(len(query.x)))
    after = predict(case.learner, support, query.x[order])
    same([after], [before[order]], "permuted queries are predicted otherwise")
    if case.kind.order_free:
        rows = torch.from_numpy(rng.permutation(len(support.x)))
        after = predict(case.learner, support.take(rows), query.x)
        same([after], [before], "a permuted support gives other predictions")


def classes_are_only_names(case: Drawn, rng: Rng) -> None:
    applies(case.kind.classes_alike)
    support, query = case.task()
    order = torch.from_numpy(rng.permutation(support.y.shape[-1]))
    renamed = predict(case.learner, support._replace(y=support.y[:, order]), query.x)
    before = predict(case.learner, support, query.x)[:, order]
    same([renamed], [before], "renamed classes give other predictions")


def queries_are_apart(case: Drawn, rng: Rng) -> None:
    applies(case.apart and not case.learner.transductive)
    support, query = case.task()
    together = predict(case.learner, support, query.x)
    for i in range(len(query.x)):
        alone = predict(case.learner, support, query.x[i : i + 1])
        same([alone], [together[i : i + 1]], "a query alone is predicted otherwise")


def single_precision_is_near_double(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    single = copy.deepcopy(case.learner).float()
    low: Task[Examples] = tree_map(lambda leaf: leaf.float(), Task(support, query))
    found = predict(single, low.support, low.query.x)
    require(found.dtype == torch.float32, f"predictions are {found.dtype}")
    expected = predict(case.learner, support, query.x)
    found, expected = found.double().softmax(-1), expected.softmax(-1)
    off = (found - expected).abs().max().item()
    require(off < 0.02, f"probabilities in float32 are off by {off:.2g}")


def gradient_is_that_of_finite_differences(case: Drawn, rng: Rng) -> None:
    applies(case.kind.exact_gradient and case.smooth)
    learner = case.learner
    params = [p for p in learner.parameters() if p.requires_grad]
    directions = [torch.from_numpy(rng.standard_normal(p.shape)).to(p) for p in params]
    learner.zero_grad()
    learner(case.batch).sum().backward()
    slope = sum(
        float((p.grad * d).sum())
        for p, d in zip(params, directions, strict=True)
        if p.grad is not None
    )

    def loss_at(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(params, directions, strict=True):
                p.add_(d, alpha=step)
        value = float(learner(case.batch).sum())
        with torch.no_grad():
            for p, d in zip(params, directions, strict=True):
                p.add_(d, alpha=-step)
        return value

    found = [(loss_at(h) - loss_at(-h)) / (2 * h) for h in (1e-4, 1e-5, 1e-6)]
    require(
        any(math.isclose(slope, value, rel_tol=1e-3, abs_tol=1e-5) for value in found),
        f"the gradient is {slope:.6g}, finite differences are "
        + ", ".join(f"{value:.6g}" for value in found),
    )


def nothing_is_changed(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    before = copy.deepcopy((dict(case.learner.state_dict()), support, query))
    with torch.no_grad():
        state = case.learner.adapt(support)
        kept = copy.deepcopy(state)
        first = point(case.learner.predict(state, query.x))
        case.learner.adapt(support, state)
        again = point(case.learner.predict(state, query.x))
    same(leaves(state), leaves(kept), "the state was changed", exactly=True)
    same([again], [first], "a second prediction differs", exactly=True)
    after = (dict(case.learner.state_dict()), support, query)
    same(leaves(after), leaves(before), "parameters or data were changed", exactly=True)


def threads_predict_the_same(case: Drawn, rng: Rng) -> None:
    case.learner.train(bool(rng.integers(2)))
    support, query = case.task()
    expected = predict(case.learner.eval(), support, query.x)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(predict, case.learner, support, query.x) for _ in range(8)]
        for job in jobs:
            same([job.result()], [expected], "a thread predicts otherwise")


def copies_are_equal(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    expected = predict(case.learner, support, query.x)
    copied = predict(copy.deepcopy(case.learner), support, query.x)
    same([copied], [expected], "a copy predicts otherwise")


def inference_mode_is_no_grad(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    expected = predict(case.learner, support, query.x)
    with torch.inference_mode():
        found = point(case.learner.predict(case.learner.adapt(support), query.x))
    same([found], [expected], "inference mode predicts otherwise")


def freezing_after_wrapping_counts(case: Drawn, rng: Rng) -> None:
    applies(not case.kind.embeds and not isinstance(case.learner, qs.CAVIA))
    support, query = case.task()
    net = next(iter(case.learner.children()))
    names = [name for name, _ in net.named_parameters()]
    applies(len(names) > 1)
    frozen = str(rng.choice(names))
    before = copy.deepcopy(net)
    before.get_parameter(frozen).requires_grad_(False)
    torch.manual_seed(0)
    expected_learner = case.kind.make(before).double().eval()
    torch.manual_seed(0)
    learner = case.kind.make(net).double().eval()
    net.get_parameter(frozen).requires_grad_(False)
    same(
        [predict(learner, support, query.x)],
        [predict(expected_learner, support, query.x)],
        f"{frozen}, frozen after wrapping, is adapted",
    )


def outputs_must_fit(case: Drawn, rng: Rng) -> None:
    applies(not case.kind.embeds and not case.kind.classes_alike)
    ways = int(rng.choice([1, CLASSES - 1, CLASSES + 2]))

    def other(examples: Examples) -> Examples:
        label = examples.y.argmax(-1) % ways
        return examples._replace(y=torch.eye(ways, dtype=examples.y.dtype)[label])

    case.learner(Task(other(case.batch.support), other(case.batch.query)))
    must_refuse(f"{ways} classes with {CLASSES} outputs")


def other_dtypes_are_cast_or_refused(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    kind = rng.choice(["y int", "y bool", "weight int", "weight bool", "x float32", "x int"])
    field, dtype = str(kind).split()
    to = {"int": torch.int64, "bool": torch.bool, "float32": torch.float32}[dtype]

    def cast(examples: Examples) -> Examples:
        return examples._replace(**{field: getattr(examples, field).to(to)})

    rounded: Task[Examples] = tree_map(
        lambda leaf: leaf.double(), Task(cast(support), cast(query))
    )
    found = case.learner(tree_map(lambda leaf: leaf[None], Task(cast(support), cast(query))))
    expected = case.learner(tree_map(lambda leaf: leaf[None], rounded))
    same([found.double()], [expected], f"{kind} gives another loss", tolerance=1e-3)


def odd_sizes_are_right_or_refused(case: Drawn, rng: Rng) -> None:
    support, query = case.task()
    kind = str(rng.choice(["no support", "no query", "one query", "one example", "no task"]))
    match kind:
        case "no support":
            prediction = predict(case.learner, support.take(slice(0)), query.x)
            require(prediction.shape == query.y.shape, f"shape {prediction.shape}")
            require(not prediction.isnan().any(), "without a support, predictions are NaN")
        case "no query":
            prediction = predict(case.learner, support, query.x[:0])
            require(prediction.shape == query.y[:0].shape, f"shape {prediction.shape}")
        case "one query":
            prediction = predict(case.learner, support, query.x[:1])
            require(prediction.shape == query.y[:1].shape, f"shape {prediction.shape}")
            require(not prediction.isnan().any(), "the prediction of one query is NaN")
        case "one example":
            prediction = predict(case.learner, support.take(slice(1)), query.x)
            require(prediction.shape == query.y.shape, f"shape {prediction.shape}")
            require(not prediction.isnan().any(), "of one example, predictions are NaN")
        case _:
            losses = case.learner(tree_map(lambda leaf: leaf[:0], case.batch))
            require(losses.shape == (0,), f"losses of no task have shape {losses.shape}")


def nan_is_reported(case: Drawn, rng: Rng) -> None:
    """A task with NaN among its inputs is NaN in a report, and there is a warning."""
    number = int(rng.integers(len(case.batch.query.x)))
    x = case.batch.query.x.clone()
    x[number] = math.nan
    tasks = Task(case.batch.support, case.batch.query._replace(x=x))
    applies(case.apart)
    logits = predict(case.learner, case.task(number).support, x[number])
    applies(bool(logits.isnan().any()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = evaluate(
            case.learner,
            qs.tasks.Fixed(tasks),
            n_tasks=len(x),
            meta_batch_size=len(x),
        )
    for metric, values in report.values.items():
        require(bool(values.isnan().any()), f"NaN is reported as {metric} {values.tolist()}")
        require(int(values.isnan().sum()) == 1, f"one task of NaN changed {metric} of others")
    require(bool(caught), "NaN is reported without a warning")


def criteria_are_loops(rng: Rng) -> None:
    """Outputs of more axes than (N, C): the naive mean, or a refusal."""
    n, c = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    middle = tuple(int(k) for k in rng.integers(1, 4, rng.integers(0, 3)))
    shape = n, *middle, c
    y = torch.from_numpy(rng.standard_normal(shape))
    prediction = torch.from_numpy(rng.standard_normal(shape))
    weight = torch.from_numpy(rng.random(n) + 0.1)
    kind = str(rng.choice(["cross_entropy", "squared_error", "accuracy", "gaussian_nll"]))
    rows = y.reshape(n, -1, c), prediction.reshape(n, -1, c)
    values = list[float]()
    for i in range(n):
        each = list[float]()
        for target, value in zip(rows[0][i], rows[1][i], strict=True):
            match kind:
                case "cross_entropy":
                    one_hot = torch.eye(c, dtype=y.dtype)[target.argmax()]
                    each.append(-float((one_hot * value.log_softmax(-1)).sum()))
                case "squared_error":
                    each.append(float((target - value).square().sum()))
                case "accuracy":
                    each.append(float(value.argmax() == target.argmax()))
                case _:
                    normal = torch.distributions.Normal(value, torch.ones_like(value))
                    each.append(-float(normal.log_prob(target).sum()))
        values.append(sum(each) / len(each))
    expected = float((torch.tensor(values).double() * weight).sum() / weight.sum())
    if kind in ("cross_entropy", "accuracy"):
        y = torch.eye(c, dtype=y.dtype)[y.argmax(-1)]
    examples = Examples(y, y, weight)
    found = {
        "cross_entropy": partial(cross_entropy, prediction),
        "squared_error": partial(squared_error, prediction),
        "accuracy": partial(accuracy, prediction),
        "gaussian_nll": lambda examples: gaussian_nll(
            torch.distributions.Normal(prediction, torch.ones_like(prediction)), examples
        ),
    }[kind](examples)
    require(found.shape == (), f"{kind} of {shape} has shape {tuple(found.shape)}")
    require(
        math.isclose(float(found), expected, rel_tol=1e-6, abs_tol=1e-9),
        f"{kind} of {shape} is {float(found):.6g}, a loop gives {expected:.6g}",
    )


def far_from_the_origin_is_near(rng: Rng) -> None:
    """float32 is near float64 if all inputs are moved."""
    name = str(rng.choice(list(SOLVED)))
    far = 10.0 ** int(rng.integers(0, 5))
    batch, _ = draw_tasks(rng, (WIDTH,))
    support, query = (part.take(0) for part in batch)
    support, query = (part._replace(x=(4 * part.x).round() + far) for part in (support, query))
    low = Examples(*(leaf.float() for leaf in support))
    learner = SOLVED[name](nn.Flatten()).eval()
    found = predict(copy.deepcopy(learner).float(), low, query.x.float()).double()
    expected = predict(learner.double(), support, query.x)
    off = (found.softmax(-1) - expected.softmax(-1)).abs().max().item()
    require(off < 0.05, f"{name} at {far:g}: probabilities in float32 are off by {off:.2g}")


SOLVED: dict[str, Callable[[nn.Module], Learner[Any]]] = {
    "prototypical": qs.PrototypicalNetwork,
    "cosine_prototypical": cosine_prototypical,
    "matching": MatchingNetwork,
    "r2d2": qs.R2D2,
    "lrd2": qs.LRD2,
    "meta_opt_net": qs.MetaOptNet,
    "ridge": qs.RidgeRegression,
    "streaming_lda": lambda net: StreamingLDA(net, shrinkage=0.1),
}


PROPERTIES: dict[str, Callable[..., None]] = {
    "finite losses, right shapes": has_losses_and_shapes,
    "all tasks at once are a loop": vmap_is_a_loop,
    "a task alone is the task in a batch": tasks_are_apart,
    "weights are repetitions": weights_are_repetitions,
    "query weights are repetitions": query_weights_are_repetitions,
    "the scale of query weights": scale_of_query_weights_does_not_matter,
    "padding": padding_counts_for_nothing,
    "order": order_does_not_matter,
    "names of classes": classes_are_only_names,
    "a query alone is the query among others": queries_are_apart,
    "float32 is near float64": single_precision_is_near_double,
    "finite differences": gradient_is_that_of_finite_differences,
    "nothing is changed": nothing_is_changed,
    "threads": threads_predict_the_same,
    "copies": copies_are_equal,
    "inference mode": inference_mode_is_no_grad,
    "frozen after wrapping": freezing_after_wrapping_counts,
    "outputs that do not fit": outputs_must_fit,
    "other dtypes": other_dtypes_are_cast_or_refused,
    "odd sizes": odd_sizes_are_right_or_refused,
    "NaN is reported": nan_is_reported,
    "outputs of more axes": criteria_are_loops,
    "far from the origin": far_from_the_origin_is_near,
}
ALONE = {criteria_are_loops, far_from_the_origin_is_near}


# Helpers


@torch.no_grad()
def predict(learner: Learner[Any], support: Examples, x: Tensor) -> Tensor:
    """Return the prediction after adaptation."""
    return point(learner.predict(learner.adapt(support), x))


def point(prediction: Any) -> Tensor:
    """Return the prediction, or the mean of a predicted distribution."""
    return prediction if isinstance(prediction, Tensor) else prediction.mean


def same(
    found: list[Any],
    expected: list[Any],
    sentence: str,
    *,
    exactly: bool = False,
    tolerance: float = 1e-6,
) -> None:
    """Require equal tensors; NaN equals NaN."""
    rtol, atol = (0.0, 0.0) if exactly else (tolerance, tolerance * 1e-1)
    require(
        len(found) == len(expected), f"{sentence}: {len(found)} and {len(expected)} tensors"
    )
    for a, b in zip(found, expected, strict=True):
        require(a.shape == b.shape, f"{sentence}: shapes {tuple(a.shape)}, {tuple(b.shape)}")
        if not torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            off = (a.double() - b.double()).abs().nan_to_num().max().item()
            require(False, f"{sentence}, by up to {off:.2g}")


if __name__ == "__main__":
    main("learners", draw)
