"""The command line, one file per group of commands.

`app` dispatches by a table, and imports the file of the one command that runs: `quickstudy
--help` and `quickstudy list` load no torch, which takes seconds. `catalogue` reads what there
is from files, `options` has the options that several commands share, `pictures` reads images.
A new command is a function whose docstring, in the imperative and with an example, is its help.
"""
