"""Regular expressions of users."""

from __future__ import annotations

import re
import warnings

from .findings import BadValueError


def compile_regex(source: str) -> re.Pattern[str]:
    """Compile; `BadValueError` E102 if that is impossible."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # re warns about what it will read otherwise one day
            return re.compile(source)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise BadValueError("E102", f"regex does not compile: {error}") from None
