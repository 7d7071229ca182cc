"""Tables of a report: results beside the paper's, the protocol, and the circumstances."""

from collections.abc import Mapping

from quickstudy.core.task import Json
from quickstudy.evaluation.formatting import format_duration, format_mean
from quickstudy.reports.html import facts, paragraph, table, value_text


def results_table(measured: Mapping[str, Json], paper: Mapping[str, Json]) -> str:
    """Return measured means with their 95 % intervals beside the paper's.

    Examples:
        >>> measured = {"5-way": {"accuracy": {"mean": 0.98, "interval": 0.004}}}
        >>> "98.00 ± 0.40 %" in results_table(measured, {"5-way": {"accuracy": 0.987}})
        True
    """
    if not measured:
        return paragraph("This run is not finished: nothing has been measured yet.")
    rows = [("test", "metric", "measured ± 95 %", "paper", "there")]
    for row, entry in measured.items():
        published = dict(paper.get(row, {}))
        for metric in (key for key in entry if key != "card"):
            number = published.pop(metric, None)
            interval = published.pop("interval", None)
            rows.append(
                (
                    row,
                    metric.replace("_", " "),
                    format_mean(metric, entry[metric]["mean"], entry[metric]["interval"]),
                    "" if number is None else format_mean(metric, number, interval),
                    ", ".join(f"{key} {value_text(v)}" for key, v in published.items()),
                )
            )
    columns = [i for i in range(5) if i < 3 or any(row[i] for row in rows[1:])]
    head, *body = [[row[i] for i in columns] for row in rows]
    return table(head, body)


def protocol_table(cards: Mapping[str, Mapping[str, Json]]) -> str:
    """Return the protocol of each number: what all share, then what differs.

    Examples:
        >>> cards = {"1-shot": {"ways": 5, "shots": 1}, "5-shot": {"ways": 5, "shots": 5}}
        >>> html = protocol_table(cards)
        >>> html.count("ways"), "<th>shots</th>" in html
        (1, True)
    """
    if not cards:
        return ""
    keys = list(dict.fromkeys(key for card in cards.values() for key in card))
    texts = {key: [value_text(card.get(key, "")) for card in cards.values()] for key in keys}
    shared = {key: column[0] for key, column in texts.items() if len(set(column)) == 1}
    differing = [key for key in keys if key not in shared]
    rows = [[name, *(texts[key][i] for key in differing)] for i, name in enumerate(cards)]
    return facts(shared) + (table(["test", *differing], rows) if differing else "")


def circumstances(result: Mapping[str, Json]) -> str:
    """Return settings, steps, time and hardware of a result.

    Examples:
        >>> result = {"settings": {"lr": 0.1}, "steps": 9, "seconds": 75, "hardware": {}}
        >>> "<dt>training time</dt><dd>1:15</dd>" in circumstances(result)
        True
    """
    return facts(
        {
            **result["settings"],
            "steps": result["steps"],
            "reported checkpoint": result.get("checkpoint", "none yet"),
            "training time": format_duration(result["seconds"]),
            **{key: value for key, value in result["hardware"].items() if value is not None},
            "date": result.get("date", "not finished"),
        }
    )
