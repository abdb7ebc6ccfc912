"""The digits' tables say quotients of T, and shares of the grid's gain."""

from tools.bench.tables.digits import digits, digits_auto, digits_fit, digits_prompt, digits_trained


def figures(value, name=""):
    return {f"{name}classifier": value, f"{name}pixels": value}


CELLS = {"floor": {"figures": figures(0.0)}} | {
    f"ddpm 10 cfg 1 {label} {seed}": {"figures": figures(value * (1 + seed))}
    for label, value in (("plain", 4.0), ("c 0.9", 2.0), ("c 0.8", 1.0))
    for seed in (0, 1, 2)
}
FIT = {"short": "c 0.9", "thorough": "plain", **figures(2.0, "short "), **figures(4.0, "thorough ")}


def test_a_line_has_plain_and_quotients():
    assert "| ddpm 10 cfg 1 | 8.00 ± 4.00 | 8.00 ± 4.00 | 0.50 ± 0.00 | 0.25 ± 0.00 |" in digits(CELLS)


def test_refusals_are_counted_by_what_the_pictures_show():
    counts = {"right": 0, "right sets": 9, "other": 7, "other sets": 8, "mixed": 3, "mixed sets": 4}
    assert "| 16 | 0 of 9 | 7 of 8 | 3 of 4 |" in digits_prompt({"prompt 16": {"figures": counts}})


def test_the_rules_gain_is_a_share_of_the_best():
    told = digits_fit(CELLS | {"ddpm 10 cfg 1 fit 0 0": {"figures": FIT}})
    assert "| ddpm 10 cfg 1 | 0.50 | 1.00 | 0.25 | 0 of 1 |" in told
    assert "short: 50 % of the grid's log gain" in told
    assert "thorough: 0 % of" in told
    assert "own shares is 50 % of the 1 where the grid gains more than 2 %, 50 % of all 1" in told


def test_a_condition_counts_as_much_as_any_and_as_its_whole_at_most():
    """Beside the 50 % above a condition in which little was to gain, and more was found than the grid has."""
    little = {
        f"heun 10 cfg 1 {label} {seed}": {"figures": figures(value)}
        for label, value in (("plain", 4.0), ("c 0.9", 3.96), ("c 0.8", 4.0))
        for seed in (0, 1, 2)
    }
    found = {**FIT, **figures(4 * 0.99**3, "short ")}
    told = digits_fit(
        CELLS
        | little
        | {"ddpm 10 cfg 1 fit 0 0": {"figures": FIT}, "heun 10 cfg 1 fit 0 0": {"figures": found}}
    )
    assert "own shares is 50 % of the 1 where the grid gains more than 2 %, 175 % of all 2" in told
    assert "75 % if each counts as 100 % at most" in told


def test_harm_is_counted():
    bad = {**FIT, **figures(20.0, "short ")}
    told = digits_fit(CELLS | {"ddpm 10 cfg 1 fit 0 0": {"figures": bad}})
    assert "by more than the spread in 100.0 %" in told


def test_trained_methods_stand_beside_their_controls():
    cells = {"floor": {"figures": figures(0.0)}} | {
        f"ddpm 20 {label} {seed}": {"figures": figures(value * (1 + seed)) | {"strength": 0.25 * seed}}
        for label, value in (("plain", 4.0), ("as long", 3.0), ("anti-bias", 2.0), ("auto", 1.0))
        for seed in (0, 1)
    }
    told = digits_trained(cells | {"train anti-bias 0": {"figures": {"seconds": 1.0}}})
    assert "| as long | 0.75 ± 0.00 |" in told and "| anti-bias | 0.50 ± 0.00 |" in told
    assert "| ddpm 20 | 0.12 ± 0.18 | 0.25 ± 0.00 |" in digits_auto(cells)
