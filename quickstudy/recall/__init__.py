"""Past tasks, kept and found again: in memory and on disk."""

from quickstudy.recall.mapping_library import LearnedMapping, MappingLibrary
from quickstudy.recall.task_memory import TaskMemory

__all__ = ["LearnedMapping", "MappingLibrary", "TaskMemory"]
