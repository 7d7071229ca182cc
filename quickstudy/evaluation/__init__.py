"""Meta-testing: one protocol for every learner, on tasks, streams and rollouts.

`protocol` has `evaluate` and what all evaluations share, `report` their results, `pairwise` and
`cached_embeddings` what learners with embeddings allow. A new evaluation is a file with one
function that returns a `Report`, draws tasks at `HELD_OUT_RANK`, and has an executed example.
"""

from quickstudy.evaluation.adaptation import AdaptationReport, adaptation_trace
from quickstudy.evaluation.cached_embeddings import embed_once
from quickstudy.evaluation.presentations import evaluate_presentations
from quickstudy.evaluation.protocol import evaluate
from quickstudy.evaluation.report import Difference, Report
from quickstudy.evaluation.rollouts import evaluate_rollouts, success_rate
from quickstudy.evaluation.stream_loop import run_stream
from quickstudy.evaluation.stream_measures import StreamReport
from quickstudy.evaluation.streams import evaluate_stream, stream_report

__all__ = [
    "AdaptationReport",
    "Difference",
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
