"""Layout of Meta-World's observations: where each of the 39 numbers stands."""

SHAPE = (39,)

HAND, OBJECT, OTHER_OBJECT, GOAL = slice(0, 3), slice(4, 7), slice(11, 14), slice(36, 39)
"""Positions, in metres. Zeros stand for an object or a goal that the scene does not have or show."""

GRIPPER = 3
"""Opening of the fingers, 1 when they are wide apart."""

ORIENTATIONS = [*range(7, 11), *range(14, 18)]
"""Quaternions of the two objects."""

NOW, PREVIOUS = slice(0, 18), slice(18, 36)
"""Hand, gripper and objects at this step, and the same numbers one step earlier."""
