"""The formats of exported models as parameters of tests."""

from collections.abc import Iterable
from importlib.util import find_spec

import pytest
from _pytest.mark import ParameterSet

from train_core.examples import FormatName
from train_core.formats import FORMATS


def installed(formats: Iterable[FormatName] = FORMATS) -> list[ParameterSet]:
    """Each format as a parameter: skipped where its packages are missing; long where writing a file takes seconds."""
    return [_parameter(fmt) for fmt in formats]


def _parameter(fmt: FormatName) -> ParameterSet:
    form = FORMATS[fmt]
    missing = [name for name in form.packages_to_write if find_spec(name) is None]
    marks = [pytest.mark.skipif(bool(missing), reason=f"the extra {form.extra} is not installed")]
    if form.extra == "tflite":
        marks.append(pytest.mark.long)
    return pytest.param(fmt, marks=marks)
