"""The same as `interp-train detect ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
