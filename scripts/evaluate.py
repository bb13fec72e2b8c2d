"""The same as `interp-train evaluate ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
