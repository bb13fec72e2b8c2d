"""The same as `interp-train layers ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["layers", *sys.argv[1:]]))
