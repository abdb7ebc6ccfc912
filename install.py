"""Installs the optional packages of requirements.txt where they are missing.

WebUI runs this at every launch, ComfyUI-Manager once after requirements.txt. With everything there it only
looks; without a network it says so and the launch goes on, since both packages are imported only where used.
It never changes what the host runs on: those packages are held at the versions that are installed.
"""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {
    "open_clip": "open_clip_torch",
    "matplotlib": "matplotlib",
}  # module to look for, package that has it
HELD = ("torch", "torchvision", "torchaudio", "numpy", "gradio", "transformers")


def main() -> int:
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    held = held_versions()
    if missing and not any(line.startswith("torch==") for line in held):
        print(
            f"SteadyDiff: no torch in this Python, so {' and '.join(missing)} is left to the host's set-up."
        )
    elif missing and not install(missing, held):
        print(
            f"SteadyDiff: {' and '.join(missing)} could not be installed; only what uses it will be missing."
        )
    return 0


def held_versions() -> list[str]:
    """pip constraints that keep every package of HELD as it is."""
    return [f"{name}=={version}" for name in HELD if (version := installed_version(name))]


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def install(packages: list[str], held: list[str]) -> bool:
    """Have pip install the packages without waiting long for an absent network."""
    print(f"SteadyDiff: installing {' and '.join(packages)} ...")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "held.txt")
        constraints.write_text("\n".join(held), encoding="utf-8")
        options = ["--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            *options,
            "--constraint",
            str(constraints),
            *packages,
        ]
        return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
