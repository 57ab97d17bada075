"""The model file: a zip of JSON and safetensors that SB3's tools can read and that executes nothing."""

from sb3_llmdpd.checkpoint.container import (
    FORMAT_VERSION,
    Checkpoint,
    FileLike,
    Parts,
    existing,
    read,
    shown_path,
    write,
)

__all__ = ["FORMAT_VERSION", "Checkpoint", "FileLike", "Parts", "existing", "read", "shown_path", "write"]
