"""Files: written atomically, checked by digest and format when read, never unpickled.

`files` has the one atomic writer, digests, locks and errors. `tree_json` turns trees of tensors
into JSON. `checkpoints` and `state_file` are the two formats. `renamed` maps the names in files
of version 0.1.0 to today's. A new kind of file is written by `state_file.write` under a key of
its own. A name that files hold may change only with an entry in `renamed`.
"""

from quickstudy.storage.checkpoint_series import Checkpoints
from quickstudy.storage.checkpoints import load, read_facts, save
from quickstudy.storage.files import CheckpointError

__all__ = ["CheckpointError", "Checkpoints", "load", "read_facts", "save"]
