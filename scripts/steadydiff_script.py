"""Loader for A1111 and the Forge family: puts extension/ on the path while loading, then registers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extension"))
from steadydiff_webui.script import SteadyDiffScript, register  # noqa: E402, F401

register()
