"""The photos' tables say means, spreads and changes against plain."""

from tools.bench.tables.photos import photos, photos_curve


def cell(value, variance=-0.5, **more):
    spaces = ("classifier", "imagenet", "pixels")
    return {"figures": {**dict.fromkeys(spaces, value), "variance": variance, **more}}


CELLS = {
    "floor": cell(0.5),
    "epsilon_40 sha256": {"figures": {"sha256": "ab"}},
    "40 ddpm 20 plain 0": cell(10.0),
    "40 ddpm 20 plain 1": cell(20.0),
    "40 ddpm 20 c 0.95 0": cell(6.0, -0.3),
    "40 ddpm 20 c 0.95 1": cell(12.0, -0.1),
    "40 ddpm 20 c 0.9 0": cell(3.0),
    "40 ddpm 20 lambda 1.03 0": cell(11.0),
    "40 ddpm 20 lambda 1.03 1": cell(22.0),
    "40 ddpm 20 lambda 1.015 0": cell(9.0),
    "40 ddpm 20 lambda 1.015 1": cell(18.0),
    "40 ddpm 20 fit 16 0": cell(5.0, chosen="c 0.93"),
    "40 ddpm 20 fit 16 1": cell(10.0, chosen="plain"),
    "40 ddpm 20 signs 0": {"figures": {"j": -0.5, "v": -0.25}},
    "40 ddpm 20 signs 1": {"figures": {"j": -0.25, "v": -0.125}},
    "40 ddpm 14 DiffIER 0.3 0": cell(30.0),
    "40 ddpm 14 DiffIER 0.3 1": cell(30.0),
    "5 ddpm 20 plain 0": cell(100.0),
    "5 ddpm 20 signs 0": {"figures": {"j": -1.0, "v": 0.5}},
}


def test_a_line_has_mean_spread_and_change():
    lines = photos(CELLS).splitlines()
    assert lines[2] == "| ddpm 20 | plain | 15 ± 7.1 | 15 ± 7.1 | 15 ± 7.1 | -50 % |"
    assert lines[3].startswith("| ddpm 20 | c 0.95 | 9 ± 4.2 (-40 %) |")
    assert lines[3].endswith("| -20 % |")


def test_it_is_of_the_network_trained_longest_and_of_drawn_pictures():
    assert "| 100 |" not in photos(CELLS) and "signs" not in photos(CELLS)


def test_what_was_chosen_is_said():
    assert "| ddpm 20 | fit 16: c 0.93, plain | 7.5 ± 3.5 (-50 %) |" in photos(CELLS)


def test_diffier_is_compared_at_equal_calls():
    assert "| ddpm 14 | DiffIER 0.3 | 30 ± 0 (+100 %) |" in photos(CELLS)


def test_it_is_compared_with_plain_of_the_same_seeds():
    assert "| ddpm 20 | c 0.9 | 3 (-70 %) |" in photos(CELLS)
    some = {name: one for name, one in CELLS.items() if name != "40 ddpm 20 plain 1"}
    assert "| ddpm 20 | c 0.95 | 9 ± 4.2 | 9" in photos(some)


def test_the_curve_has_what_is_measured_and_the_best_of_each_family():
    lines = photos_curve(CELLS).splitlines()
    assert lines[2] == "| 320 | 20 | -1.00 | +0.50 | 100 / 100 / 100 | – | – |"
    changes = "c 0.9: -70 / -70 / -70 % | lambda 1.015: -10 / -10 / -10 %"
    assert lines[3] == f"| 2,560 | 20 | -0.38 | -0.19 | 15 / 15 / 15 | {changes} |"
    assert len(lines) == 4
