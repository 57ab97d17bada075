"""`Ending`, the base of exceptions that end a command and are no bug."""

FAILED, BAD_INPUT = 1, 2
"""Exit statuses of commands: after `BAD_INPUT` the user can mend what went wrong."""


class Ending(Exception):
    """An end whose message is all that a user needs, such as a training that was stopped or has diverged."""

    exit_status = FAILED
    """Status of a command that ends so."""
