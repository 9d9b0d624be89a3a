"""The composition root: Redis, Ray and the Serve application of one machine, started and ended together."""

from online_draft.launch.child import ChildSystem
from online_draft.launch.run_file import RunFile, end_system, find_run_files
from online_draft.launch.system import LocalSystem

__all__ = ["ChildSystem", "LocalSystem", "RunFile", "end_system", "find_run_files"]
