"""Numbers as people read them."""


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
