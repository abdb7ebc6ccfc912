"""The README is short, says only what docs show, and its commands and those of CONTRIBUTING exist."""

import re
from pathlib import Path

import pytest

import run

ROOT = Path(run.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"run\.py ([a-z][^`#\n]*)", README + CONTRIBUTING)
NUMBER = r"\d+(?:[.,x]\d+)*"
RESULTS = re.findall(r"^\* .+(?:\n  .+)*", README[README.index("## Results") :], re.MULTILINE)


def evidence(page: Path) -> set[str]:
    """The numbers in a page's tables, and in what `run.py bench tables` writes into it."""
    text = page.read_text(encoding="utf-8")
    tables = re.findall(r"^\|.*", text, re.MULTILINE)
    tables += [made for _, made in re.findall(r"<!-- (.+) -->(.*?)<!-- end of \1 -->", text, re.DOTALL)]
    return set(re.findall(NUMBER, "\n".join(tables)))


def numbers(text: str) -> set[str]:
    """The numbers a reader sees: not those in addresses, commands and names such as SD1.5 or CIFAR-10."""
    seen = re.sub(r"\]\([^)]*\)|```.*?```|`[^`]*`|#\d+", "", text, flags=re.DOTALL)
    return set(re.findall(rf"(?<![A-Za-z\d.]){NUMBER}", re.sub(r"[A-Za-z]+-\d+", "", seen)))


def test_the_readme_is_short():
    assert len(README.encode()) <= 6000


def test_every_number_stands_in_a_table_of_the_docs():
    """Or in pyproject.toml: the oldest Python and ComfyUI."""
    known = set(re.findall(NUMBER, re.search(r">=.*", (ROOT / "pyproject.toml").read_text())[0]))
    known |= set(re.findall(r'requires-\w+ = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    assert numbers(README) - known.union(*map(evidence, (ROOT / "docs").glob("*.md"))) == set()


@pytest.mark.parametrize("line", RESULTS, ids=lambda line: line[2:26])
def test_a_result_names_its_command_and_the_page_that_has_its_numbers(line):
    assert re.match(r"\* `run\.py bench \w+`", line)
    pages = [ROOT / page for page in re.findall(r"\]\(([^)#]+)", line)]
    assert pages and numbers(line) - set().union(*map(evidence, pages)) == set()


def test_there_are_five_results_and_the_set_up_takes_two_commands():
    assert len(RESULTS) == 5
    for text in (README, CONTRIBUTING[:600]):
        assert re.search(r"^python3 run\.py demo .*\npython3 run\.py test ", text, re.MULTILINE)


def test_every_file_that_is_linked_exists():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert len(links) > 10 and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_every_command_is_one_the_launcher_knows(line):
    options, unknown = run.parser().parse_known_args(line.split())
    benches = {file.stem for file in (ROOT / "tools" / "bench").glob("*.py")}
    assert getattr(options, "name", "NAME") in {"NAME", "tables", *run.TRAINERS, *benches}
    assert [word for word in unknown if word != "--quick"] == []


def test_files_and_folders_of_the_map_exist():
    own = CONTRIBUTING[CONTRIBUTING.index("## Map") : CONTRIBUTING.index("## Where things go")]
    named = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+)", own, re.MULTILINE)
    paths = [path for cell in named for path in re.findall(r"`([^`]+)`", cell)]
    assert paths and [path for path in paths if not ROOT.joinpath(path).exists()] == []
