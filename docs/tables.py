"""Writes what was measured into the README and the docs.

    python docs/tables.py            rewrite every block
    python docs/tables.py --check    change nothing; fail if a block is out of date

A block stands between `<!-- results: NAME -->` and `<!-- /results -->`. NAME is `published` (a
row for each number that a paper has too), `headlines` (a few of these), `each` (a section for
each recipe), the name of a recipe or of one of its results, `compare RECIPE` (its results
beside each other, task by task), `seeds RECIPE` (means over its seeds), `gradient omniglot` and
`gradient sinusoid` (a row for each gradient learner), `metric omniglot` and `memory omniglot`
(a row for each result of learners that compare or remember), `mechanisms` (pairs of results),
`speed`, or `benchmark NAME` (a benchmark that does not measure speed).
The numbers come from recipes/results/*.json and benchmarks/results/*.json, which the commands
that measured them wrote.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

ROOT = Path(__file__).resolve().parent.parent
UNPUBLISHED, NOT_RUN = "–", "not run"
GRADIENT = {
    "maml": "MAML",
    "fomaml": "FOMAML",
    "anil": "ANIL",
    "boil": "BOIL",
    "meta_sgd": "Meta-SGD",
    "meta_curvature": "Meta-Curvature",
    "maml_pp": "MAML++",
    "reptile": "Reptile",
    "imaml": "iMAML",
    "cavia": "CAVIA",
    "proto_maml": "ProtoMAML",
}
NAMES = GRADIENT | {
    "prototypical": "Prototypical",
    "cosine_prototypical": "Prototypical, cosine",
    "matching": "Matching",
    "siamese": "Siamese",
    "relation": "Relation",
    "relation_reasoning": "Relation reasoning",
    "feat": "FEAT",
    "r2d2": "R2-D2",
    "meta_opt_net": "MetaOptNet",
    "baseline": "Baseline",
    "baseline_pp": "Baseline++",
    "simple_shot": "SimpleShot",
    "tim": "TIM (transductive)",
    "transductive_fine_tuning": "Transductive fine-tuning",
    "lr_d2": "LR-D2",
    "snail": "SNAIL",
    "snail_temporal": "SNAIL, no attention",
    "matching_fce": "Matching, full context",
    "life_long_memory": "Life-long memory",
    "mann": "MANN",
    "memory_network": "Memory network",
    "meta_net": "MetaNet",
    "fine_tuning": "Fine-tuning",
    "joint": "Joint (all at once)",
    "ewc": "EWC",
    "online_ewc": "EWC, online",
    "synaptic_intelligence": "Synaptic intelligence",
    "learning_without_forgetting": "Learning without forgetting",
    "experience_replay": "Experience replay",
    "a_gem": "A-GEM",
    "der": "DER",
    "der_pp": "DER++",
    "gdumb": "GDumb",
    "mer": "MER",
    "la_maml": "La-MAML",
    "sync_la_maml": "La-MAML, Sync",
    "rl2": "RL²",
    "nearest_mean": "Nearest mean of pixels, by cosine",
    "maml_trpo": "MAML, TRPO",
    "maml_ppo": "MAML, PPO",
    "promp": "ProMP",
    "e_maml": "E-MAML, TRPO",
    "pretrained": "One policy for all tasks",
    "pearl": "PEARL",
    "scratch": "From scratch, on the same episodes",
    "untrained": "Untrained",
}
FAMILIES = {
    family: tuple(f"omniglot_{name}" for name in names.split())
    for family, names in {
        "metric": "metric relation baseline_pp simple_shot semi_supervised",
        "memory": "snail life_long_memory meta_net memory_network",
    }.items()
}
HEADLINES = {  # a result of each family, and its test
    "omniglot_maml": "5-way 1-shot",
    "omniglot_protonet": "20-way 5-shot",
    "omniglot_life_long_memory": "5-way 5-shot",
    "omniglot_snail_all": "5-way 1-shot",
    "sinusoid_maml": "10 shots, 10 steps",
    "rl_bandit_rl2_5_arms_10_pulls": "new bandits",
}
_ALPHABETS, _WAVES = "alphabets_task_memory_", "multimodal_task_memory"
# a test, and the results with a mechanism and without it; where these are rows of their own,
# each with its row
MECHANISMS: tuple[tuple[str, str, str | tuple[str, str], str | tuple[str, str]], ...] = (
    ("attention of SNAIL", "5-way 1-shot", "caltech101_snail_1shot",
     "caltech101_snail_temporal_1shot"),
    ("context of matching networks", "5-way 1-shot", "caltech101_matching_fce_1shot",
     "caltech101_matching_1shot"),
    ("relations, not distances", "5-way 1-shot", "caltech101_relation_reasoning_1shot",
     "caltech101_prototypical_1shot"),
    ("attention among prototypes", "5-way 1-shot", "caltech101_feat_1shot",
     "caltech101_prototypical_1shot"),
    ("MANN's 128 slots", "5th presentation", "omniglot_mann_128", "omniglot_mann_0"),
    ("MANN's 16 slots", "5th presentation", "omniglot_mann_16", "omniglot_mann_0"),
    ("memory of 256 tasks, of alphabets that come again", "5-way 1-shot, fixed labels, 1 step",
     (_ALPHABETS + "fixed", "1 step, memory of 256 tasks"),
     (_ALPHABETS + "fixed", "1 step, no memory")),
    ("the same, where what was learned is of no use", "5-way 1-shot, shuffled labels, 1 step",
     (_ALPHABETS + "shuffled", "1 step, memory of 256 tasks"),
     (_ALPHABETS + "shuffled", "1 step, no memory")),
    ("memory of 256 tasks, of waves, lines and parabolas", "10 shots, 1 step, squared error",
     (_WAVES, "1 step, memory of 256 tasks"), (_WAVES, "1 step, no memory")),
)  # fmt: skip
# benchmarks that are not of speed
APART = {"bandits", "contention", "mapping_library", "mdps", "scale", "startup"}
BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- /results -->)", re.DOTALL)


def pages() -> list[Path]:
    """Where blocks may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def renewed(text: str) -> str:
    """`text` with every block as the JSON files have it now."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{_block(found[2])}\n\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Rewrites, or with `--check` lists, the pages that are out of date."""
    old = [page for page in pages() if renewed(page.read_text()) != page.read_text()]
    for page in old:
        print(f"{page.relative_to(ROOT)}: out of date")
        if "--check" not in arguments:
            page.write_text(renewed(page.read_text()))
    return int(bool(old) and "--check" in arguments)


def _block(name: str) -> str:
    formats = _formats()
    if name in ("published", "headlines"):
        return _published(formats, HEADLINES if name == "headlines" else None)
    if name == "each":
        return "\n\n".join(f"## {recipe}\n\n{_recipe(recipe)}" for recipe in formats)
    if name in ("speed", "speed in short"):
        found = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
        found = [file for file in found if file.stem not in APART]
        parts = [_benchmark(file, name != "speed") for file in found]
        return "\n\n".join(filter(None, parts)) or "*Not measured yet: `make bench`.*"
    if name.removeprefix("benchmark ") in APART:
        file = ROOT / "benchmarks" / "results" / f"{name.removeprefix('benchmark ')}.json"
        return _benchmark(file) if file.exists() else "*Not measured yet: `make bench`.*"
    if name == "gradient omniglot":
        return _omniglot()
    if name.removesuffix(" omniglot") in FAMILIES:
        return _family(FAMILIES[name.removesuffix(" omniglot")])
    if name == "mechanisms":
        return _mechanisms()
    if name == "gradient sinusoid":
        return _sinusoid()
    if name.removeprefix("compare ") in set(formats) - {name}:
        return _compared(name.removeprefix("compare "))
    if name.removeprefix("seeds ") in set(formats) - {name}:
        return _seeds(name.removeprefix("seeds "))
    if name in formats:
        return _recipe(name)
    for recipe in formats:
        if _may_be(name, formats[recipe]):
            result, (known, _) = _results().get(name), _where(*name.split("_", 1))
            command = f"quickstudy train {known} --learner {name.split('_', 1)[1]} --record"
            missing = f"*Not recorded yet: `{command if known else name}`.*"
            return _one(result) if result else missing
    raise ValueError(
        f"There is no block {name!r}: name a recipe or one of its results, or see the head of "
        "docs/tables.py."
    )


def _published(formats: dict[str, str], chosen: dict[str, str] | None = None) -> str:
    """A row for each number that a paper has too; of `chosen` results, a row for each test."""
    sources = {recipe: (ROOT / "recipes" / f"{recipe}.py").read_text() for recipe in formats}
    recipes = [recipe for recipe in formats if "\nPAPER" in sources[recipe]]
    rows = [
        [f"`{name}`", *row, _training(result)]
        for recipe in recipes
        for name, result in _results(recipe).items()
        for row in _rows(result)
        if row[-1] != UNPUBLISHED and (chosen is None or row[0] == chosen.get(name))
    ]
    missing = ", ".join(f"`{recipe}`" for recipe in recipes if not _results(recipe))
    head = ["Result", "Tasks", "Metric", "Measured", "Published", "Trained"]
    hint = f"*Not recorded yet: {missing}.*" if missing and chosen is None else ""
    parts = [_table(head, rows), hint]
    return "\n\n".join(filter(None, parts))


def _recipe(name: str) -> str:
    """The section of a recipe: its result, or a line for each of its results."""
    results = _results(name)
    if not results:
        return f"*Not recorded yet: `quickstudy train {name} --record`.*"
    if name == "streams":
        return _streams(results)
    if _formats()[name] == name and list(results) == [name]:
        return _one(results[name])
    if _formats()[name] == name:  # variants of one result
        return "\n\n".join(f"**`{key}`**\n\n{_one(each)}" for key, each in results.items())
    rows = [[f"`{key}`", *row] for key, result in results.items() for row in _rows(result)]
    return "\n\n".join(
        [
            _constants(name)["__doc__"],
            _table(["Result", "Tasks", "Metric", "Measured", "Published"], rows),
        ]
    )


def _streams(results: dict[str, Any]) -> str:
    """A table for each data set: what is right at the end, and how much of it was lost."""
    parts, columns = [_constants("streams")["__doc__"]], {
        "Split": ("split", "all", "forgetting"),
        "Split, task known": ("split", "task known", "forgetting"),
        "Permuted": ("permuted", "all", "forgetting"),
        "Rotated": ("rotated", "all", "backward transfer"),
    }  # fmt: skip
    for data in dict.fromkeys(result["settings"]["data"] for result in results.values()):
        kinds = {
            r["settings"]["stream"] for r in results.values() if r["settings"]["data"] == data
        }
        shown = {title: column for title, column in columns.items() if column[0] in kinds}
        rows = []
        for learner in _choices("streams"):
            cells, facts = [], ["", ""]
            for stream, test, also in shown.values():
                found = results.get(f"{data}_{stream}_{learner}")
                if found is None:
                    cells.append(NOT_RUN)
                    continue
                row = found["measured"][test]
                right, lost = row["accuracy"], 100 * row[also]["mean"]
                share = _number("accuracy", right["mean"], right["interval"])
                cells.append(f"{share} ({lost:+.1f})")
                facts = [
                    f"{row['milliseconds per example']['mean']:.2g}",
                    f"{row['kilobytes']['mean']:,.0f}",
                ]
            if set(cells) != {NOT_RUN}:
                rows.append([NAMES.get(learner, learner), *cells, *facts])
        head = ["Learner", *shown, "ms an example", "kB"]
        parts.append(f"**{data}**\n\n{_table(head, rows)}")
    parts.append(
        "Accuracy on all tests at the end; in brackets forgetting, of rotated digits backward "
        "transfer, both in per cent. ± is the 95 % interval of the mean over streams. "
        "Milliseconds are of learning, on one core, several streams at once where they are of "
        "one size; they and the kilobytes of the state are those of the last column that was "
        "run."
    )
    return "\n\n".join(parts)


def _omniglot() -> str:
    """What each learner reaches 5-way 1-shot, beside its paper."""
    main, rows = "5-way 1-shot", []
    for key, learner in GRADIENT.items():
        recipe, result = _where("omniglot", key)
        if not recipe:
            continue
        paper = _paper(recipe, result)
        names = (result, f"{result}_full")
        results = {k: v for k, v in _results(recipe).items() if k in names}
        for test in dict.fromkeys([main, *paper]):
            reference = paper.get(test, {})
            published = UNPUBLISHED
            if "accuracy" in reference:
                published = _number(
                    "accuracy", reference["accuracy"], reference.get("interval")
                )
            cells = {False: NOT_RUN, True: NOT_RUN}  # by whether it is the run in full
            kinds = set[str]()
            for name, result in results.items():
                if test in result["measured"]:
                    cells[name.endswith("_full")] = _trained(
                        result, test, reference.get("steps")
                    )
                    kinds.add(_formatted(result["measured"][test]["card"]["transductive"]))
            label = f"{learner}{test.removeprefix(main)}"
            rows.append([label, published, *cells.values(), ", ".join(sorted(kinds))])
    head = ["Learner", "Published", "Measured in part", "Measured in full", "Transductive"]
    return _table(head, rows)


def _where(data: str, learner: str) -> tuple[str, str]:
    """The recipe that has a learner on a data set, and the name of its result."""
    result = f"{data}_{learner}"
    for recipe, form in _formats().items():
        if recipe == result or (form == f"{data}_{{learner}}" and learner in _choices(recipe)):
            return recipe, result
    return "", result


def _family(recipes: Sequence[str]) -> str:
    """The accuracy of every result of some recipes, and the published one in brackets.

    A name may be that of one result, too.
    """
    tests = [f"{n}-way {k}-shot" for n in (5, 20) for k in (1, 5)]
    rows = []
    for recipe in recipes:
        results = _results(recipe) or {k: v for k, v in _results().items() if k == recipe}
        expected = [f"omniglot_{key}" for key in _choices(recipe)] or [recipe] * (not results)
        for name in dict.fromkeys([*expected, *results]):
            result, paper = results.get(name, {}), _paper(recipe, name)
            cells = []
            for test in tests:
                number = result.get("measured", {}).get(test, {}).get("accuracy")
                published = paper.get(test, {}).get("accuracy")
                cell = NOT_RUN
                if number:
                    cell = _number("accuracy", number["mean"], number["interval"])
                cells.append(cell + (f" ({100 * published:.1f})" if published else ""))
            trained = _training(result) if result else ""
            rows.append([f"`{name.removeprefix('omniglot_')}`", *cells, trained])
    return _table(["Result", *(f"{test}" for test in tests), "Trained"], rows)


def _mechanisms() -> str:
    """What was measured with a mechanism and without it."""
    rows, results = [], _results()
    for about, test, *names in MECHANISMS:
        cells = []
        for each in names:
            name, row = each if isinstance(each, tuple) else (each, test)
            found = results.get(name, {"measured": {}})["measured"].get(row)
            cells.append(_trained(results[name], row, None) if found else NOT_RUN)
        rows.append([about, test, *cells])
    return _table(["Mechanism", "Test", "With", "Without"], rows)


def _trained(result: Any, test: str, steps: int | None) -> str:
    """The first number of a test, and after how much training."""
    metric, number = next(iter(result["measured"][test].items()))
    size = result.get("size", result["settings"].get("size"))
    facts = [f"{result['steps']:,}{f' of {steps:,}' if steps else ''} steps"]
    facts += [f"{size} tasks each"] * bool(size)
    facts += [_time(result["seconds"]), "GPU" if result["hardware"].get("gpu") else "CPU"]
    return f"{_number(metric, number['mean'], number['interval'])} ({', '.join(facts)})"


def _sinusoid() -> str:
    """The squared error of each learner, by shots and inner steps."""
    tests = [f"{k} shots, {s}" for k in (5, 10, 20) for s in ("1 step", "10 steps")]
    head, rows = ["Learner", *tests, "Trained"], []
    for key, learner in GRADIENT.items():
        recipe, _ = _where("sinusoid", key)
        found = [
            result
            for result in _results(recipe).values()
            if result["settings"].get("learner", key) == key
        ]
        lines: dict[str, dict[str, str]] = {}
        for result in found:
            settings = result["settings"]
            trained = f"{result['steps']:,} steps, {_time(result['seconds'])}"
            for test, row in result["measured"].items():
                column, label = test, learner
                if re.fullmatch(r"\d+ shots, \d+ steps", test) and test not in tests:
                    continue  # as many as in training: on the learner's page
                if test not in tests:  # CAVIA's are named by the size of its context
                    count = settings["inner_steps"]
                    column = f"{settings['shots']} shots, {count} step{'s' * (count > 1)}"
                    label = f"{learner}, {test}"
                number = row["squared_error"]
                line = lines.setdefault(label, {"Trained": trained})
                line[column] = _number("squared_error", number["mean"], number["interval"])
        rows += [
            [label, *(line.get(name, NOT_RUN) for name in head[1:])]
            for label, line in lines.items()
        ]
        if recipe and not found:
            rows.append([learner, *[NOT_RUN] * len(head[1:])])
    return _table(head, rows)


def _compared(recipe: str) -> str:
    """A table for each test, of the results of a recipe with a setting `learner`."""
    from quickstudy.runs.compare_runs import compare, table

    results = _results(recipe)
    parts = []
    for comparison in compare(results) if len(results) > 1 else []:
        head, *rows = table(comparison)
        entries = [entry.name for entry in comparison.entries]
        found = [results[name]["settings"].get("learner", name) for name in entries]
        names = [NAMES.get(learner, learner) for learner in found]
        rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
        missing = [NAMES.get(key, key) for key in _choices(recipe) if key not in found]
        parts.append(f"**{comparison.test}**\n\n{_table(['Learner', *head[1:]], rows)}")
        parts += [f"*Not run: {', '.join(missing)}.*"] if missing else []
    return "\n\n".join(parts) or f"*Not run yet: `quickstudy train {recipe} --record`.*"


def _seeds(recipe: str) -> str:
    """A row for each learner and test: means over seeds, with Student's 95 % interval."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for result in _results(recipe).values():
        for test in result["measured"]:
            groups.setdefault((result["settings"]["learner"], test), []).append(result)
    rows = []
    for (learner, test), results in groups.items():
        n, paper = len(results), results[0]["paper"].get(test, {})
        row = {"Learner": NAMES.get(learner, learner), "Tasks": test, "Seeds": n}
        for metric in sorted(results[0]["measured"][test].keys() - {"card"}):
            means = [result["measured"][test][metric]["mean"] for result in results]
            wide = student.ppf(0.975, n - 1) * stdev(means) / n**0.5 if n > 1 else None
            published = f" ({_number(metric, paper[metric], None)})" if metric in paper else ""
            row[metric] = _number(metric, mean(means), wide) + published
        spent = _time(mean(result["seconds"] for result in results))
        rows.append(row | {"Trained": f"{results[0]['steps']:,} steps, {spent}"})
    return _dictionaries(rows) or f"*Not run yet: `quickstudy train {recipe} --record`.*"


def _constants(recipe: str) -> dict[str, Any]:
    """The constants that a recipe's file assigns, not imported; of `LEARNERS` the keys."""
    file = ROOT / "recipes" / f"{recipe}.py"
    tree = ast.parse(file.read_text() if file.exists() else "")
    constants: dict[str, Any] = {"__doc__": ast.get_docstring(tree) or ""}
    for line in tree.body:
        target = line.targets[0] if isinstance(line, ast.Assign) else None
        target = line.target if isinstance(line, ast.AnnAssign) else target
        value = getattr(line, "value", None)
        if not isinstance(target, ast.Name) or value is None:
            continue
        if target.id == "LEARNERS" and isinstance(value, ast.Dict):
            constants["LEARNERS"] = [ast.literal_eval(key) for key in value.keys if key]
            continue
        with suppress(NameError, AttributeError):
            code = compile(ast.Expression(value), str(file), "eval")
            constants[target.id] = eval(code, {"__builtins__": {}}, constants)
    return constants


def _paper(recipe: str, result: str) -> dict[str, Any]:
    """The numbers that a result is compared with."""
    paper = _constants(recipe).get("PAPER", {})
    if any(key.startswith(recipe.partition("_")[0] + "_") for key in paper):  # by result
        return paper.get(result, {})
    return paper


def _choices(recipe: str) -> list[str]:
    """What the `learner` of a recipe may be: the keys of its `LEARNERS`."""
    return _constants(recipe).get("LEARNERS", [])


def _one(result: Any) -> str:
    """All that there is to say of one result."""
    cards = [row["card"] for row in result["measured"].values()]
    shared = {k: v for k, v in cards[0].items() if all(c.get(k) == v for c in cards)}
    trained = _training(result).replace(", ", " in ", 1)
    best = f"; the checkpoint of step {result['checkpoint']:,} was the best by validation"
    if not result["steps"]:
        trained, best = "Nothing was meta-trained", ""
    return "\n\n".join(
        [
            result["about"],
            _table(["Tasks", "Metric", "Measured", "Published"], list(_rows(result))),
            f"**Protocol.** {_facts(shared)}. ± is the 95 % interval of the mean over tasks.",
            f"**Training.** {_facts(result['settings'])}. {trained}, {result['date']}, on "
            f"{_machine(result['hardware'])}{best}.",
        ]
    )


def _formats() -> dict[str, str]:
    """Of every recipe, by name: what its results are called, as a format of its settings."""
    found = {}
    for file in sorted((ROOT / "recipes").glob("[a-z]*.py")):
        result_name = re.search(r'^RESULT = "(.+)"', file.read_text(), re.MULTILINE)
        found[file.stem] = result_name[1] if result_name else file.stem
    return found


def _may_be(name: str, form: str) -> bool:
    parts = re.split(r"\{.*?\}", form)
    return len(parts) > 1 and bool(re.fullmatch(".+".join(map(re.escape, parts)), name))


def _results(recipe: str | None = None) -> dict[str, Any]:
    """The stored results, by name: all, or those of a recipe."""
    files = sorted((ROOT / "recipes" / "results").glob("*.json"))
    found = {file.stem: json.loads(file.read_text()) for file in files}
    return {k: v for k, v in found.items() if recipe in (None, v["recipe"])}


def _rows(result: Any) -> Iterator[list[str]]:
    """Tasks, metric, measured, published."""
    for name, row in result["measured"].items():
        paper = dict(result["paper"].get(name, {}))
        for metric, value in row.items():
            if metric == "card":
                continue
            published = UNPUBLISHED
            if metric in paper:
                published = _number(metric, paper.pop(metric), paper.pop("interval", None))
                published += f" ({_facts(paper)})" if paper else ""
            number = _number(metric, value["mean"], value["interval"])
            yield [name, metric.replace("_", " "), number, published]


def _benchmark(file: Path, short: bool = False) -> str:
    """Any list of rows of one kind, and what they were measured on; in short, of meta-steps the
    fastest way of each workload, and neither heads, memory, streams, breakdowns nor GPUs."""
    result = json.loads(file.read_text())
    rows, limits = result["rows"], result.get("limits", [])
    apart = ("heads", "memory", "stream", "environments", "breakdown")
    if short and (file.stem in apart or file.stem.startswith("gpu_")):
        return ""
    if short and file.stem == "meta_step":
        rows, limits = [_fastest(rows, limit["workload"]) for limit in limits], []
    parts = (
        rows,
        limits,
        result.get("breakdown", []),
        [] if short else result.get("peaks", []),
    )
    tables = "\n\n".join(_dictionaries(some) for some in parts if some)
    sentence = "" if short else f"{result.get('steadiness', '')}\n\n".lstrip()
    return (
        f"**{result['title']}**\n\n{tables}\n\n{sentence}"
        f"*{result['date']}, {_machine(result['hardware'])}{_load(result)}.*"
    )


def _load(result: dict[str, Any]) -> str:
    """The load average of a minute when a benchmark began and ended, where it is stored."""
    states = [result.get(f"machine at the {moment}") for moment in ("start", "end")]
    loads = [state["load of 1, 5 and 15 minutes"][0] for state in states if state]
    return f", load {loads[0]} to {loads[1]}" if loads else ""


def _fastest(rows: list[dict[str, Any]], workload: str) -> dict[str, Any]:
    """The fastest way of quickstudy, beside the plain loop and the fastest other library."""
    rows = [row for row in rows if row["workload"] == workload]
    ours = [row for row in rows if row["way"].startswith("quickstudy")]
    plain = [row for row in rows if row["way"].startswith("plain loop")]
    others = [row for row in rows if row not in ours + plain and "written" not in row["way"]]
    best, base = (min(some, key=lambda row: row["ms"]) for some in (ours, plain))
    rival = min(others, key=lambda row: row["ms"], default=None)
    return {
        "workload": workload,
        "fastest way": best["way"].removeprefix("quickstudy "),
        "ms": best["ms"],
        "plain loop, ms": base["ms"],
        "fastest rival, ms": f"{rival['ms']:g} ({rival['way']})" if rival else "",
        "x plain loop": best["x plain loop"],
    }


def _dictionaries(rows: list[dict[str, Any]]) -> str:
    head = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_formatted(row.get(key, "")) for key in head] for row in rows]
    return _table([key.replace("_", " ") for key in head], cells)


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(metric: str, mean: float | None, interval: float | None) -> str:
    """A mean and its interval: accuracies and successes in percent, others to three places."""
    if mean is None:
        return "not finite"
    percent = metric == "accuracy" or metric.startswith("success")
    scale, places = (100, 1) if percent else (1, 3)
    text = f"{mean * scale:.{places}f}"
    if interval is not None:
        text += f" ± {interval * scale:.{places}f}"
    return text + " %" * percent


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {_formatted(value)}" for key, value in facts.items()
    )


def _formatted(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " to ".join(map(_formatted, value))
    return "none" if value is None else str(value)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _training(result: Any) -> str:
    """How long a result was trained, and what part of the paper's training that is."""
    text = f"{result['steps']:,} steps, {_time(result['seconds'])}"
    fraction = result.get("paper_fraction")
    return text if fraction is None else f"{text}, {100 * fraction:.2g} % of the paper's tasks"


def _machine(hardware: Any) -> str:
    parts = [hardware.get("gpu"), hardware["processor"], f"{hardware['threads']} threads"]
    return ", ".join(filter(None, [*parts, f"PyTorch {hardware['torch']}"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
