"""The commands: `python -m tf_realnvp --help` lists them."""

import sys

from tf_realnvp.cli.main import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m tf_realnvp"))
