"""The tables on reference pictures say means, spreads, signs and what was chosen."""

from tools.bench.tables.references import references_planted, references_prompt, references_rule


def test_a_line_of_the_planted_scale_has_means_and_spreads():
    cells = {
        f"tiny flow: own fine samples {seed}": {
            "figures": {"plain": 1.0 + seed, "planted": 1.02 + seed, "difference": 0.02 * (seed + 1)}
        }
        for seed in (0, 1)
    }
    line = references_planted(cells).splitlines()[2]
    assert line == "| flow | own fine samples | 1.500 ± 0.707 | 1.520 ± 0.707 | +0.030 ± 0.014 |"


def test_a_line_of_the_rule_has_both_signs_and_the_choice():
    figures = {"j": -0.5, "j_error": 0.1, "v": 0.25, "v_error": 0.2, "chosen": "c 0.93"}
    keys = "rule flow: shipped", "photos real 20: shipped"
    told = references_rule({key: {"figures": figures} for key in keys})
    assert "| tiny flow | shipped | -0.50 ± 0.10 | +0.25 ± 0.20 | c 0.93 |" in told
    assert "| photos, other unseen ones | shipped | -0.50 ± 0.10 | +0.25 ± 0.20 | – |" in told


def test_a_line_of_the_prompt_has_a_range_and_the_answer():
    """The answer is the rule's: what is two of its errors above 0 is refused."""
    found = {"harm": 0.2, "error": 0.1}, {"harm": 0.21, "error": 0.1}
    keys = "prompt photos: shipped", "prompt tiny flow: shipped"
    cells = {key: {"figures": one} for key, one in zip(keys, found, strict=True)}
    assert references_prompt(cells).splitlines()[2:] == [
        "| photos | shipped | +11% to +35% | takes them |",
        "| tiny flow | shipped | +12% to +36% | refuses |",
    ]
