"""`python -m arlib` is the `arlib` command."""

from arlib.cli import main

main()
