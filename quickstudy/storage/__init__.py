"""Files: written atomically, checked by digest and schema when read, never unpickled."""

from quickstudy.storage.checkpoints import CheckpointError, Checkpoints, load, save

__all__ = ["CheckpointError", "Checkpoints", "load", "save"]
