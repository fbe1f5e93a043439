"""JavaScript packages for the tests that need some."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def install(package: Path, folder: Path) -> Path:
    """Copy a package to a folder with all that its lock file names; skipped where npm cannot."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no node and npm on this machine")
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(package, folder, ignore=ignored, dirs_exist_ok=True)
    command = ["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot install {package.name}: {done.stderr.strip()[-200:]}")
    return folder
