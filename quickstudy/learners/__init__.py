"""One file per learner: the folder's listing is the table of contents."""
