"""The composition root: Redis, Ray and the Serve application of one machine, started and ended together.

For Serve configs there are `app` and `control_app` (`applications.py`), which import Ray when asked for.
"""

from typing import Any

from online_draft.launch.child import ChildSystem
from online_draft.launch.run_file import RunFile, end_system, find_run_files
from online_draft.launch.system import LocalSystem

__all__ = ["ChildSystem", "LocalSystem", "RunFile", "end_system", "find_run_files"]


def __getattr__(name: str) -> Any:
    if name in ("app", "control_app"):
        from online_draft.launch import applications

        return getattr(applications, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
