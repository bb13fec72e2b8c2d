"""The same as `interp-train dissect ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["dissect", *sys.argv[1:]]))
