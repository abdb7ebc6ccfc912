"""The tables of docs/matrix.md say who was right, who declined and what went wrong."""

from tools.bench.tables.matrix import matrix, matrix_pairs, matrix_patches


def cell(tried, refused="", sentence="", wrong=""):
    return {"figures": {"tried": tried, "refused": refused, "sentence": sentence, "wrong": wrong}}


CELLS = {
    "MDSS, plain, epsilon": cell(44, "uni_pc uni_pc_bh2", "not with uni_pc"),
    "MDSS, mask, epsilon": cell(44, wrong="heun: not finite"),
    "MDSS, plain, v": cell(44, "uni_pc uni_pc_bh2", "not with uni_pc"),
    "DiffIER and MDSS, flow": cell(6),
    "DiffIER with EasyCache, v": cell(6, "euler heun dpmpp_2m ddpm lcm ipndm", "EasyCache skips calls"),
}


def test_a_line_counts_the_samplers_and_names_what_is_wrong():
    lines = matrix(CELLS).splitlines()
    assert lines[0] == "In all tables: 144 tried, 10 declined with a sentence, 1 groups with a fault."
    assert lines[2] == "| method, model | plain | mask |"
    assert "| MDSS, epsilon | 42 of 44 | **wrong**: heun: not finite |" in lines
    assert "| MDSS, v | 42 of 44 | not run |" in lines


def test_a_refusal_is_said_once_with_the_samplers_it_is_of():
    assert matrix(CELLS).splitlines()[-1] == "* MDSS in uni_pc, uni_pc_bh2: “not with uni_pc”"
    assert matrix_patches(CELLS).splitlines()[-1] == "* DiffIER with EasyCache: “EasyCache skips calls”"


def test_pairs_and_patches_have_tables_of_their_own():
    assert matrix_pairs(CELLS).splitlines()[2:] == [
        "| DiffIER and MDSS | not run | not run | not run | 6 of 6 |"
    ]
    assert "| DiffIER with EasyCache | not run | 0 of 6 | not run | not run |" in matrix_patches(CELLS)
