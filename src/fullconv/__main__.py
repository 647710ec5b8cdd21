"""``python -m fullconv`` and ``torchrun -m fullconv``: the command line."""

from .cli.main import main

main()
