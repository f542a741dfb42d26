"""What plugin authors test with: the checks of a whole plugin, a function on real workers, a plugin for one test.

Everything is the real thing made small: a tiny run, real records, real processes. Nothing here imitates the platform.
"""

from __future__ import annotations

from heliostat.testing.checks import CheckResult, check_plugin
from heliostat.testing.distribution import on_path, write_dist_info
from heliostat.testing.workers import run_on_workers

__all__ = ["CheckResult", "check_plugin", "on_path", "run_on_workers", "write_dist_info"]
