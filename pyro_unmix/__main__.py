"""``python -m pyro_unmix``: the command line."""

from pyro_unmix.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
