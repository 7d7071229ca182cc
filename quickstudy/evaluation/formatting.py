"""Numbers as people read them."""

import re


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, which people read in percent.

    Examples:
        >>> is_share("accuracy"), is_share("loss")
        (True, False)
    """
    return metric == "accuracy" or metric.startswith("success")


def format_mean(metric: str, mean: float, interval: float | None = None) -> str:
    """Format a mean: shares in percent, other metrics with four digits.

    Examples:
        >>> format_mean("accuracy", 0.98765, 0.004), format_mean("loss", 0.12345)
        ('98.77 ± 0.40 %', '0.1235')
    """
    share = is_share(metric)
    scale, form = (100, ".2f") if share else (1, "#.4g")
    text = f"{mean * scale:{form}}"
    if interval is not None and interval == interval:  # one task has no interval: NaN
        text += f" ± {interval * scale:{'.2f' if share else '.2g'}}"
    return f"{text} %" if share else text


def format_duration(seconds: float) -> str:
    """Format a duration as minutes and seconds, or hours, minutes and seconds.

    Examples:
        >>> format_duration(75), format_duration(3675)
        ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 2h, 1h30m, 90m or 45s.

    Raises:
        ValueError: the text is no duration.

    Examples:
        >>> parse_duration("1h30m"), parse_duration("0")
        (5400.0, 0.0)
    """
    number = r"\d+(?:\.\d+)?"
    match = re.fullmatch(f"(?:({number})h)?(?:({number})m)?(?:({number})s?)?", text.strip())
    if not text.strip() or match is None:
        raise ValueError(f"{text!r} is no duration: give one such as 2h, 90m or 45s.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds
