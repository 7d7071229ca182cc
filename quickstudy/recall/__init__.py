"""Past tasks, kept and retrieved: in memory and on disk.

`task_memory` keeps states in a learner's buffers. `mapping_library` keeps them in files:
`store` reads and writes these, `retrieval` embeds tasks and compares them, `retriever` finds
the mappings nearest to a new task. A new kind of recall returns a state that
`learner.adapt(support, state)` starts from, and has an example.
"""

from quickstudy.recall.mapping_library import MappingLibrary
from quickstudy.recall.retrieval import task_embedding
from quickstudy.recall.store import LearnedMapping
from quickstudy.recall.task_memory import TaskMemory

__all__ = ["LearnedMapping", "MappingLibrary", "TaskMemory", "task_embedding"]
