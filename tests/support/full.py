"""A temporary file on a disk without room."""

import errno
import io
from typing import Any


class FullFile(io.BytesIO):
    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")
