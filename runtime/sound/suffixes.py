"""How the names of recordings end."""

from __future__ import annotations

from typing import Final

# What is taken of a folder: sound, and videos, of which the sound is read.
SOUNDS: Final = tuple(
    ".wav .flac .wave .ogg .oga .opus .mp3 .m4a .aac .wma .aif .aiff .aifc .caf .au .w64 .mp4 .m4v "
    ".mov .mkv .mka .webm .avi .3gp".split()
)
