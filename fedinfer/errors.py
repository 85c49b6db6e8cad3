"""Every error a user of fedinfer can meet.

* FedInferError
  * ConfigError              a scenario, a file or a value is wrong (exit code 2)
    * DataError              a table breaks its own description
  * BudgetExceeded           a ledger refuses to spend (exit code 3)
  * ProtocolAbort            a round ends without a release (exit code 4)
    * TooFewSurvivors        fewer devices answered than the threshold
    * BadShare               a device sent shares that do not fit its commitment
    * BadMessage             a message cannot be decoded or breaks a bound
      * VersionMismatch      the two sides speak different versions
    * Misbehaviour           the other side asked for something that would break privacy
  * ArtifactRejected         a model is not installed (exit code 5)
    * BadSignature           wrongly signed, tampered, truncated, expired, oversized
      * PatchRefused         a patch does not lead from the model that is there to the signed one
    * Rollback               older than what the device has
    * GateFailed             a quality gate says no
    * NoModel                nothing serves: never installed, or withdrawn
  * TransportError           the other side cannot be reached
  * StoreError               a database or a folder cannot be written
  * LogTampered              an audit log is not what was written (exit code 1)
  * MissingExtra             an optional package is not installed (exit code 2)

Messages carry numbers ("3 survivors, threshold 5"); `hint` says what to do. Only the command line prints and exits.
"""

from __future__ import annotations


class FedInferError(Exception):
    """Root of all errors raised on purpose.

    Args:
        message: what happened, with numbers.
        hint: what the reader can do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(FedInferError):
    """A scenario, a file or a value is wrong."""

    exit_code = 2


class DataError(ConfigError):
    """A table breaks its own description."""


class MissingExtra(ConfigError):
    """An optional package is not installed."""


class BudgetExceeded(FedInferError):
    """A ledger refuses to spend."""

    exit_code = 3


class ProtocolAbort(FedInferError):
    """A round ends without a release."""

    exit_code = 4


class TooFewSurvivors(ProtocolAbort):
    """Fewer devices answered than the threshold."""


class BadShare(ProtocolAbort):
    """A device sent shares that do not fit its commitment; the message names it."""


class BadMessage(ProtocolAbort):
    """A message cannot be decoded or breaks a bound."""


class VersionMismatch(BadMessage):
    """The two sides speak different versions."""


class Misbehaviour(ProtocolAbort):
    """The other side asked for something that would break privacy."""


class ArtifactRejected(FedInferError):
    """A model is not installed."""

    exit_code = 5


class BadSignature(ArtifactRejected):
    """Wrongly signed, tampered, truncated, expired or oversized."""


class PatchRefused(BadSignature):
    """A patch does not lead from the model that is there to the signed one; the whole file still may."""


class Rollback(ArtifactRejected):
    """Older than what the device has."""


class GateFailed(ArtifactRejected):
    """A quality gate says no."""


class NoModel(ArtifactRejected):
    """Nothing serves on this device: no version was installed yet, or the last one was withdrawn."""


class TransportError(FedInferError):
    """The other side cannot be reached."""


class StoreError(FedInferError):
    """A database or a folder cannot be written."""

    exit_code = 2


class LogTampered(FedInferError):
    """An audit log is not what was written."""
