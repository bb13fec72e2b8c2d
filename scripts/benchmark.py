"""The same as `interp-train benchmark ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
