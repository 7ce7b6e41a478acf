"""The exception tree: what kind of trouble it is, and so what to do next.

    DcdrError
      TransientError    try again: the world may heal    Unreachable, Conflict, NotYet
      PermanentError    stop: trying again cannot help   InvalidRequest, PlanRefused, Misconfigured
      SafetyError       stop and call a human            Superseded, MirrorLoop, MirrorContent

Adapters translate each library's exceptions once, at their edge, with `raise ... from`.
"""

from __future__ import annotations


class DcdrError(Exception):
    """Base of every error this project raises on purpose."""


class TransientError(DcdrError):
    """The same call may succeed later."""


class UnreachableError(TransientError):
    """A server did not answer in time, or the connection broke; whether the call took effect is unknown."""


class ConflictError(TransientError):
    """Somebody else changed the object, or a server is busy (409 of Connect): read again, then retry."""


class NotYetError(TransientError):
    """A condition we wait for does not hold yet; waiting is not failing."""


class PermanentError(DcdrError):
    """The same call will fail again until a person changes something."""


class InvalidRequestError(PermanentError):
    """The request names something that does not exist or cannot be done."""


class PlanRefusedError(PermanentError):
    """Preflight found reasons not to start; nothing was changed."""


class MisconfiguredError(PermanentError):
    """A server or our settings are wrong in a way that makes the promise impossible."""


class DeadlineError(PermanentError):
    """A step did not finish within its deadline."""


class SafetyError(DcdrError):
    """Going on could break an invariant."""


class SupersededError(SafetyError):
    """The lease belongs to another operation or epoch by now: this attempt came too late and undid what it did."""


class MirrorLoopError(SafetyError):
    """Both directions of the mirror would run, or a direction would copy its own records back."""


class MirrorContentError(SafetyError):
    """The target's last records are not the source's: the mirror's stored offsets say drained, and are wrong."""
