"""The same as `interp-train report ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
