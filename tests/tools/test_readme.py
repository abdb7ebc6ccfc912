"""The README's example prints what it says, and its commands exist."""

import re
import runpy
from pathlib import Path

import pytest

import run

README = (Path(run.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_readme_says(tmp_path, capsys):
    code, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    (tmp_path / "README.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "README.py"))
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("line", sorted(set(re.findall(r"run\.py ([a-z][^`#\n]*)", README))))
def test_every_command_is_one_the_launcher_knows(line):
    _, unknown = run.parser().parse_known_args(line.split())
    assert [word for word in unknown if word != "--quick"] == []


def test_files_and_folders_of_the_map_exist():
    named = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", README[README.index("## Map") :], re.MULTILINE)
    paths = [path for cell in named for path in re.findall(r"`([^`]+)`", cell)]
    assert paths and [path for path in paths if not Path(run.__file__).parent.joinpath(path).exists()] == []
