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

from enum import StrEnum


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


class Refusal(StrEnum):
    """Why a model is refused, in words that say nothing of the model, of rows or of the machine.

    A device reports these texts to its server and no others. The list is fixed, so a model cannot use the reason of its
    refusal to carry data off the device.
    """

    MALFORMED = "the model file is no well-formed ONNX file"
    UNKNOWN_FIELD = "the model file holds a field that this version does not know"
    TOO_LARGE = "the model exceeds a limit of size"
    TOO_DEEP = "the model is nested too deeply"
    EXTERNAL_DATA = "the model keeps data outside its file"
    FUNCTIONS = "the model brings functions of its own"
    TRAINING = "the model brings a training part"
    OPERATOR = "the model uses an operator that is not allowed"
    CONTROL_FLOW = "the model uses control flow"
    OUTPUTS = "the model has other inputs or outputs than a device reads"
    ATTRIBUTE = "the model uses a kind of attribute that is not allowed"
    NOT_LOADED = "the runtime does not load the model"
    NOT_RUN = "the model fails when it runs"
    NOT_FINITE = "the model answers NaN or infinity"
    SHAPE = "the model answers in another shape or type than announced"
    SCHEMA = "the model does not fit the rows of this device"
    CHECK_ROWS = "the self-check rows break the schema"
    ANSWERS = "the model answers the self-check rows otherwise than where it was built"
    TOO_SLOW = "the model takes too long"
    CONFINED = "the model failed while it was confined"
    TASK = "the model is for another task"
    QUALITY = "a quality gate says no"


class GateFailed(ArtifactRejected):
    """A quality gate says no.

    Args:
        message: what happened, with numbers; for the log of whoever checked the model.
        refusal: the same in words that may leave a device.
        hint: as in FedInferError.
    """

    def __init__(self, message: str, refusal: Refusal = Refusal.QUALITY, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal


class NoModel(ArtifactRejected):
    """Nothing serves on this device: no version was installed yet, or the last one was withdrawn."""


class TransportError(FedInferError):
    """The other side cannot be reached."""


class StoreError(FedInferError):
    """A database or a folder cannot be written."""

    exit_code = 2


class LogTampered(FedInferError):
    """An audit log is not what was written."""
