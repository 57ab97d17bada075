"""How the commands read lists of names and numbers."""


def names(text: str, option: str) -> tuple[str, ...]:
    """Read names between commas.

    :param text: e.g. ``"door-lock,door-unlock"``.
    :param option: named in the message.
    :return: the names.
    :raises ValueError: when one is empty.
    """
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise ValueError(f"{option} takes names between commas, as in a,b; got {text!r}")
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Read numbers between commas.

    :param text: e.g. ``"0,0.1"``.
    :param option: named in the message.
    :return: the numbers.
    :raises ValueError: when one is none.
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes numbers between commas, as in 0,0.1; got {text!r}") from error
