"""`python -m quickstudy` is `quickstudy`."""

from quickstudy.cli.app import main

main()
