"""What the lab says when it cannot go on: always with what to do next."""


class LabError(Exception):
    """The lab could not do what was asked; the message says why and what to do next. Exit code 1."""


class UsageError(LabError):
    """What was asked for makes no sense here; nothing has been touched. Exit code 2."""
