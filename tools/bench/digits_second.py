"""The digits of `run.py bench digits` with a second network, of another seed, size and split: the blind test
of the rule of drift/fit.py, which was shaped on the first.
"""

from tools.bench.digits import main
from tools.bench.shared.digits_world import SECOND
from tools.launch.console import exit_with

if __name__ == "__main__":
    exit_with(main, SECOND)
