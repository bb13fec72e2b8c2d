"""The same as `interp-train visualize ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["visualize", *sys.argv[1:]]))
