"""Commands on a saved model: `python -m tf_realnvp --help` lists them."""

import sys

from tf_realnvp import commands

if __name__ == "__main__":
    sys.exit(commands.main())
