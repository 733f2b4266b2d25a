"""Trains RealNVP on images: `python run.py --help` lists the flags."""

import sys

from tf_realnvp import cli

if __name__ == "__main__":
    sys.exit(cli.main())
