"""The digits of `run.py bench digits` with a second network, of another seed, size and split: the blind test
of the rule of drift/fit.py, which was shaped on the first.
"""

import sys

from tools.bench.digits import main
from tools.bench.shared.digits_world import SECOND
from tools.launch.console import Stop

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], SECOND))
    except Stop as stop:
        sys.exit(str(stop))
