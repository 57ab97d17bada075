"""Writes captions below the frames of a film, and puts several films side by side."""

import math
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from sb3_llmdpd.common.optional_imports import require

_LEAST_WIDTH = 240
"""Pixels that a caption needs; a smaller frame is shown larger."""
_LETTERS = 46
"""Letters in a line of a caption."""
_BLOCK = 16
"""Pixels of which encoders of films want whole numbers."""
_INK, _SUCCESS, _PAPER = (30, 30, 30), (0, 130, 80), (255, 255, 255)


def readable(frame: np.ndarray, n_films: int = 1) -> np.ndarray:
    """Make a frame large enough for a caption, and smaller where many are shown.

    :param frame: (height, width, 3), uint8.
    :param n_films: films side by side.
    :return: the frame, in whole multiples or parts of its size.
    """
    frame = np.asarray(frame)
    height, width = frame.shape[:2]
    if width < _LEAST_WIDTH:
        times = -(-_LEAST_WIDTH // width)
        return frame.repeat(times, axis=0).repeat(times, axis=1)
    if n_films <= 2 or width < 2 * _LEAST_WIDTH:
        return frame
    whole = frame[: height // 2 * 2, : width // 2 * 2]
    return whole.reshape(height // 2, 2, width // 2, 2, -1).mean(axis=(1, 3)).astype(np.uint8)


def captioned(frame: np.ndarray, lines: Sequence[str], is_success: bool = False) -> np.ndarray:
    """Write lines below a frame; long ones are broken.

    :param frame: (height, width, 3), uint8.
    :param lines: lines, of which the last one says how it stands.
    :param is_success: write the last line in green.
    :return: (height + lines, width, 3), uint8.
    :raises ImportError: without Pillow.
    """
    image, draw, font = (require(f"PIL.{name}", "video") for name in ("Image", "ImageDraw", "ImageFont"))
    width = frame.shape[1]
    size = round(1.75 * width / _LETTERS)
    *above, state = lines
    broken = [part for line in above for part in textwrap.wrap(line, _LETTERS) or [""]]
    strip = image.new("RGB", (width, round(1.35 * size * (len(broken) + 1) + size / 2)), _PAPER)
    pen, face = draw.Draw(strip), font.load_default(size=size)
    for number, line in enumerate([*broken, state]):
        ink = _SUCCESS if is_success and number == len(broken) else _INK
        pen.text((size / 2, size / 4 + 1.35 * size * number), line, fill=ink, font=face)
    return np.concatenate([frame, np.asarray(strip)])


def side_by_side(films: Sequence[Sequence[np.ndarray]], n_columns: int | None = None) -> Iterator[np.ndarray]:
    """Put films into a grid; those that end before the others stay at their last frame.

    :param films: frames of each film, (height, width, 3), uint8, at least one.
    :param n_columns: films in a row; by default about as many as rows.
    :return: frames of the whole, its sides whole multiples of 16 pixels.
    """
    columns = n_columns or math.ceil(math.sqrt(len(films)))
    height, width = (max(film[0].shape[axis] for film in films) for axis in (0, 1))
    n_rows = -(-len(films) // columns)
    sides = [-(-side // _BLOCK) * _BLOCK for side in (n_rows * height, columns * width)]
    for moment in range(max(map(len, films))):
        whole = np.full((*sides, 3), _PAPER, np.uint8)
        for number, film in enumerate(films):
            frame = film[min(moment, len(film) - 1)]
            top, left = height * (number // columns), width * (number % columns)
            whole[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        yield whole
