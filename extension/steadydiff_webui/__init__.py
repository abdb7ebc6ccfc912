"""SteadyDiff in A1111 and the Forge family. `scripts/steadydiff_script.py` loads it."""
