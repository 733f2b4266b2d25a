"""Trains RealNVP on images: `python run.py --help` lists the flags."""

import sys

from tf_realnvp.cli.main import train_main

if __name__ == "__main__":
    sys.exit(train_main())
