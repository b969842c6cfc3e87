"""Options and failure reports shared by all black-box tests."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let fixtures know whether their test has failed."""
    report = yield
    setattr(item, f"report_{report.when}", report)
    return report
