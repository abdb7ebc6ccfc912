"""A headless Chromium, driven by Playwright in an environment of its own, .hosts/browser, which borrows the
host's packages. Standard library only; called by `run.py test --browser`.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tools.launch.console import Stop
from tools.launch.environment import HOSTS, ROOT, borrowing_venv

REQUIREMENTS = ROOT / "tools" / "requirements-browser.txt"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def ensure_browser_python(base: Path) -> Path:
    """Return the interpreter of .hosts/browser, made first where needed; `base` is the host's."""
    return borrowing_venv(base, HOSTS / "browser", REQUIREMENTS, "install Playwright")


def find_chromium(python: Path) -> str:
    """Return the browser that CHROMIUM names, or one of this machine; "" stands for Playwright's own,
    which is fetched once.
    """
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
    if not found and subprocess.run([str(python), "-m", "playwright", "install", "chromium"]).returncode:
        raise Stop("No Chromium was found or could be fetched; CHROMIUM names one.")
    return found
