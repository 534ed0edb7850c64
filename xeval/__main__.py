"""``python -m xeval``: the command line without an installed script."""

from xeval.cli.main import main

if __name__ == "__main__":
    main()
