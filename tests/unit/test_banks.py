"""The banks that ship beside the general one: tidy, of the size they are said to have, and nobody's name."""

import re

import pytest

from steadydiff.arpo.bank_files import BANKS, find_banks, named_lists, read_bank

COUNTS = {"art": 2200, "camera": 550, "figures": 450, "world": 500, "tags": 600}
"""At least so many phrases."""

DISJOINT = ("general", "art", "camera", "figures", "world")  # may all be proposed from at once

LIVING = """anish kapoor, banksy, beeple, cindy sherman, damien hirst, david hockney, gerhard richter, greg
rutkowski, artgerm, ilya kuvshinov, jeff koons, kaws, kehinde wiley, loish, makoto shinkai, hayao miyazaki,
wlop, ross tran, sakimichan, shepard fairey, takashi murakami, yayoi kusama, yoshitaka amano, katsuhiro
otomo, jenny saville, marina abramovic, olafur eliasson, ai weiwei, annie leibovitz, steve mccurry, tim
burton, wes anderson, pixar, ghibli, studio trigger, android jones, alex grey, craig mullins, marc
simonetti, tyler edlin, rossdraws"""


def phrases(bank):
    return [p for kinds in read_bank(BANKS / bank) for p in kinds.content + kinds.style]


def lines(bank):
    """(file, line) of each phrase as it is written."""
    for file in sorted((BANKS / bank).rglob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                yield file.name, line


@pytest.mark.parametrize("bank", COUNTS)
def test_a_bank_is_as_large_as_it_says_and_every_line_is_a_phrase(bank):
    found = phrases(bank)
    assert COUNTS[bank] <= len(found) <= 1.2 * COUNTS[bank]
    assert len(found) == sum(1 for _ in lines(bank))  # a list drops what stands in it twice
    odd = [line for line in lines(bank) if not re.fullmatch(r"\S+( \S+){0,7}", line[1]) or len(line[1]) > 50]
    assert odd == []


@pytest.mark.parametrize("bank", COUNTS)
def test_no_phrase_holds_brackets_that_a_host_would_read_as_stress(bank):
    assert [line for line in lines(bank) if set(line[1]) & set("()[]{}<>|")] == []


@pytest.mark.parametrize("bank", COUNTS)
def test_every_file_says_first_what_it_holds(bank):
    for file in (BANKS / bank).rglob("*.txt"):
        head, *rest = file.read_bytes().decode("utf-8").splitlines()
        assert re.fullmatch(r"# .{10,100}\.", head) and not any(line.startswith("#") for line in rest)
        assert rest == [line.strip() for line in rest if line.strip()] and b"\r" not in file.read_bytes()


@pytest.mark.parametrize("banks", [DISJOINT, ("tags",)])
def test_no_phrase_stands_in_two_lists(banks):
    seen: dict[str, str] = {}
    twice = []
    for bank in banks:
        for file, line in lines(bank):
            key = re.sub(r"\W+", " ", line.casefold()).strip()
            if key in seen:
                twice.append((line, seen[key], f"{bank}/{file}"))
            seen[key] = f"{bank}/{file}"
    assert twice == []


@pytest.mark.parametrize("bank", COUNTS)
def test_nobody_who_lives_from_it_is_named(bank):
    text = "\n".join(line for _, line in lines(bank)).casefold()
    named = [name for name in re.split(r",\s+", LIVING) if re.search(rf"\b{name}\b", text)]
    assert named == []
    assert not re.search(r"\b(?:in the style of|style by|art by|artwork by)\b", text)


def test_all_of_them_are_one_search():
    banks = find_banks()
    lists = named_lists(banks, "general", ", ".join(COUNTS))
    assert sum(map(len, lists)) > 4500 and len(lists) == len(named_lists(banks, "general")) + 21
