"""The same as `interp-train train ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
