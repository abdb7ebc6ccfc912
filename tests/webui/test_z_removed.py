"""Last: the pack's folder is taken away, the host started again, and it is as if the pack had never been."""


def test_nothing_is_left(bare, drawn):
    assert "SteadyDiff" not in bare.ask("titles")
    assert bare.ask("swallowed") == []
