"""The same as `interp-train study ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
