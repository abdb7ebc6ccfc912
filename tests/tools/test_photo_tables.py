"""The photos' table says means, spreads and changes against plain."""

from tools.bench.tables.photos import photos


def cell(value, variance=-0.5):
    spaces = ("classifier", "imagenet", "pixels")
    return {"figures": {**dict.fromkeys(spaces, value), "variance": variance}}


CELLS = {
    "floor": cell(0.5),
    "ddpm 20 plain 0": cell(10.0),
    "ddpm 20 plain 1": cell(20.0),
    "ddpm 20 c 0.95 0": cell(6.0, -0.3),
    "ddpm 20 c 0.95 1": cell(12.0, -0.1),
    "ddpm 14 DiffIER 0.3 0": cell(30.0),
    "ddpm 14 DiffIER 0.3 1": cell(30.0),
}


def test_a_line_has_mean_spread_and_change():
    lines = photos(CELLS).splitlines()
    assert lines[2] == "| ddpm 20 | plain | 15 ± 7.1 | 15 ± 7.1 | 15 ± 7.1 | -50 % |"
    assert lines[3].startswith("| ddpm 20 | c 0.95 | 9 ± 4.2 (-40 %) |")
    assert lines[3].endswith("| -20 % |")


def test_diffier_is_compared_at_equal_calls():
    assert "| ddpm 14 | DiffIER 0.3 | 30 ± 0 (+100 %) |" in photos(CELLS)


def test_a_part_is_not_compared_with_a_whole():
    some = {name: one for name, one in CELLS.items() if name != "ddpm 20 plain 1"}
    assert "| ddpm 20 | c 0.95 | 9 ± 4.2 | 9" in photos(some)
