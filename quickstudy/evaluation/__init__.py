"""Meta-testing: one protocol for every learner, streams, rollouts, adaptation."""

from quickstudy.evaluation.adaptation import AdaptationReport, adaptation_trace
from quickstudy.evaluation.cached_embeddings import EmbedTogether, embed_once
from quickstudy.evaluation.presentations import evaluate_presentations
from quickstudy.evaluation.protocol import Difference, Report, evaluate
from quickstudy.evaluation.rollouts import evaluate_rollouts, success_rate
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.evaluation.streams import (
    evaluate_stream,
    run_stream,
    stream_report,
)

__all__ = [
    "AdaptationReport",
    "Difference",
    "EmbedTogether",
    "Report",
    "StreamReport",
    "adaptation_trace",
    "embed_once",
    "evaluate",
    "evaluate_presentations",
    "evaluate_rollouts",
    "evaluate_stream",
    "run_stream",
    "stream_report",
    "success_rate",
]
