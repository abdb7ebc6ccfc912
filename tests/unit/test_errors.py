"""What users see of an error's class: no path of theirs."""

import pytest

from steadydiff import errors

CLASSES = [one for one in vars(errors).values() if isinstance(one, type)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda one: one.__name__)
def test_a_class_is_shown_without_a_path(error):
    assert f"{error.__module__}.{error.__qualname__}" == f"steadydiff.{error.__name__}"


def test_so_is_one_that_is_made_elsewhere():
    class Refused(errors.SettingsError):
        pass

    assert Refused.__module__ == "steadydiff"
