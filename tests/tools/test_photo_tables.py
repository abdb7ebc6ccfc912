"""The photos' tables say means, spreads and changes against plain."""

from functools import partial

from tools.bench.tables import photos as tables
from tools.bench.tables.photos import photos_curve

photos = partial(tables.photos, part="ancestral")


def cell(value, variance=-0.5, **more):
    spaces = ("classifier", "imagenet", "pixels")
    return {"figures": {**dict.fromkeys(spaces, value), "variance": variance, **more}}


CELLS = {
    "floor": cell(0.5, kid_imagenet=0.02),
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
    assert lines[2] == "| ddpm 20 | plain | 15 ± 7.1 | 15 ± 7.1 | 15 ± 7.1 | – | – | – | -50 % |"
    [line] = [line for line in lines if "c 0.95" in line]
    assert line.startswith("| ddpm 20 | c 0.95 | 9 ± 4.2 (-40 %) |")
    assert line.endswith("| – | – | – | -20 % |")
    assert lines[-1] == "| floor | real pictures | 0 | 0 | 0 | 0.02 | – | – | 0 |"


def test_plain_comes_first_and_numbers_rise():
    told = [line.split("|")[2].strip() for line in photos(CELLS).splitlines()[2:-1]]
    assert told == [
        "plain",
        "DiffIER 0.3",
        "c 0.9",
        "c 0.95",
        "fit 16: c 0.93, plain",
        "lambda 1.015",
        "lambda 1.03",
    ]


def test_what_is_trained_has_a_table_of_its_own_with_plain_beside_it():
    some = CELLS | {"40 ddpm 20 MDSS k 4 0": cell(5.0, kid_imagenet=0.25), "40 ddim 20 plain 0": cell(1.0)}
    lines = tables.photos(some, "trained").splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["plain", "MDSS k 4", "real pictures"]
    assert "| 5 (-50 %) | 0.25 |" in lines[3] and "MDSS" not in photos(some)


def test_the_flow_twin_is_shown_though_it_was_trained_for_fewer_steps():
    some = CELLS | {"7 flow 20 plain 0": cell(2.0), "6 flow 20 plain 0": cell(8.0)}
    lines = tables.photos(some, "without noise").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["flow 20", "floor"] and "| 2 |" in lines[2]


def test_the_papers_figures_stand_beside_ours():
    some = CELLS | {"40 heun 7 plain 0": cell(4.0), "40 heun 7 lambda 1.0045 0": cell(1.0)}
    some |= {"40 ddpm 20 clipped lambda 1.017 0": cell(8.0)}
    lines = tables.photos_paper(some).splitlines()
    assert lines[2].startswith("| DDPM | 20 | 1.017 | 10.36 → 5.15 | -50 % | clipped lambda 1.017 | -20 % |")
    assert lines[9].endswith("| 6.69 → 6.16 | -8 % | lambda 1.0045 | -75 % | -75 % | -75 % |")
    assert lines[10].endswith("| – | – | – |")


def test_it_is_of_one_network_and_of_drawn_pictures():
    assert "| 100 |" not in photos(CELLS) and "signs" not in photos(CELLS)


def test_a_longer_training_takes_over_once_as_much_was_tried_on_it():
    longer = {f"99{name[2:]}": cell(7.0) for name in CELLS if name.startswith("40")}
    begun = dict(list(longer.items())[:2])
    assert photos(CELLS | begun) == photos(CELLS)
    assert "| 7 ± 0 | 7 ± 0 | 7 ± 0 |" in photos(CELLS | longer)


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
    assert lines[2] == "| 320 | 20 | -1.00 | +0.50 | 100 / 100 / 100 | – | – | – |"
    changes = "c 0.9: -70 / -70 / -70 % | lambda 1.015: -10 / -10 / -10 %"
    changes += " | DiffIER 0.3: +100 / +100 / +100 %"
    assert lines[3] == f"| 2,560 | 20 | -0.38 | -0.19 | 15 / 15 / 15 | {changes} |"
    assert len(lines) == 4
