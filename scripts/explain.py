"""The same as `interp-train explain ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["explain", *sys.argv[1:]]))
