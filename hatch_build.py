"""Compile the core with mypyc while the wheel is built, if ``HATCH_BUILD_HOOK_ENABLE_MYPYC`` is 1.

The modules to compile are listed in pyproject.toml. Their sources stay in the wheel, the compiled files lie beside them
and go before them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MYPY_OPTIONS = ("--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent")


class MypycHook(BuildHookInterface[Any]):
    """Put compiled modules into the wheel."""

    def dependencies(self) -> list[str]:
        """Return what compiling needs beside hatchling."""
        return ["mypy>=2.4", "setuptools>=80"] if _asked_for() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules; an editable install gets them beside their sources.

        Raises:
            SystemExit: a module does not compile.
        """
        if not _asked_for():
            return
        from mypyc.build import mypycify
        from setuptools import Distribution

        os.chdir(self.root)
        modules = mypycify([*_MYPY_OPTIONS, *self.config["modules"]], opt_level="2", debug_level="0")
        command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib = self.root if version == "editable" else tempfile.mkdtemp()
        command.build_temp = tempfile.mkdtemp()
        command.ensure_finalized()
        command.run()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for built in command.get_outputs():
            build_data["force_include"][built] = str(Path(built).relative_to(command.build_lib))


def _asked_for() -> bool:
    return os.environ.get("HATCH_BUILD_HOOK_ENABLE_MYPYC") in ("1", "true")
