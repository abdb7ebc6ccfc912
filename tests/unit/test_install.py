"""install.py: looks first, holds what the host runs on, and never stops a launch."""

import subprocess

import pytest

import install


@pytest.fixture
def pip(monkeypatch):
    """Replaces pip; `calls` holds (command, constraints), `code` is what it returns."""

    class Pip:
        calls: list[tuple[list[str], list[str]]] = []
        code = 0

        def run(self, command: list[str], check: bool) -> subprocess.CompletedProcess:
            with open(command[command.index("--constraint") + 1], encoding="utf-8") as file:
                self.calls.append((command, file.read().splitlines()))
            return subprocess.CompletedProcess(command, self.code)

    pip = Pip()
    pip.calls = []
    monkeypatch.setattr(subprocess, "run", pip.run)
    return pip


def test_nothing_happens_where_everything_is_there(pip, monkeypatch, capsys):
    monkeypatch.setattr(install, "PACKAGES", {"json": "json"})
    assert install.main() == 0
    assert pip.calls == [] and capsys.readouterr().out == ""


def test_only_what_is_missing_is_installed_and_the_host_is_held(pip, monkeypatch):
    monkeypatch.setattr(install, "PACKAGES", {"json": "json", "no_such_module": "missing-package"})
    assert install.main() == 0
    (command, constraints) = pip.calls[0]
    assert "missing-package" in command and "json" not in command
    assert {line.split("==")[0] for line in constraints} >= {"torch", "numpy"}


def test_a_failing_pip_does_not_stop_the_launch(pip, monkeypatch, capsys):
    monkeypatch.setattr(install, "PACKAGES", {"no_such_module": "missing-package"})
    pip.code = 1
    assert install.main() == 0
    assert "could not be installed" in capsys.readouterr().out


def test_without_torch_nothing_is_installed(pip, monkeypatch, capsys):
    monkeypatch.setattr(install, "PACKAGES", {"no_such_module": "missing-package"})
    monkeypatch.setattr(install, "installed_version", lambda name: None)
    assert install.main() == 0
    assert pip.calls == [] and "no torch" in capsys.readouterr().out
