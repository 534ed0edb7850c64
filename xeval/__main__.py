"""``python -m xeval``: the command line without an installed script."""

from xeval.cli import main

if __name__ == "__main__":
    main()
