"""The same as `interp-train evaluate_heatmaps ...`."""

import sys

from interp_train.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate_heatmaps", *sys.argv[1:]]))
