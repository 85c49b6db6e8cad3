"""What a device reports about an error: its class, and a text that may leave.

Rules:
* About a model, a file or rows a device says one of the sentences here or in `Refusal`, and nothing else: the text of
  such an error may hold words of the graph, cells, paths or what the runtime printed, and a model could use it to carry
  data off the device. What happened is in the device's own log.
* The same of settings and packages: what an import or a file system says about them holds paths.
* An error of the protocol (a plan, a budget, a message) says what it says: its text is about what the server sent.
* Any class that is not listed says nothing but that there was an error.
"""

from __future__ import annotations

from fedinfer.errors import FedInferError, GateFailed

UNTOLD = "its text stays in the device's own log"
MAX_DETAIL = 1000
"""Characters of an error text that leave a device."""
SENTENCES = {
    "ArtifactRejected": "the manifest or a file of the update is malformed",
    "BadSignature": "a signature, a size or a date of the repository does not hold",
    "PatchRefused": "the patch does not lead from the model of this device to the signed one",
    "Rollback": "the version is older than what this device has or saw, or it is withdrawn",
    "GateFailed": "the model is refused",
    "NoModel": "nothing serves on this device",
    "StoreError": "this device cannot write or read its files",
    "TransportError": "a file of the update did not come with the message",
    "DataError": UNTOLD,
    "ConfigError": "the task does not fit this device or its program",
    "MissingExtra": "an optional package is not installed on this device",
}
NOT_WITHDRAWN = "the version is not in the signed list of withdrawn versions"
_PROTOCOL = frozenset(
    {"BudgetExceeded", "ProtocolAbort", "TooFewSurvivors", "BadShare", "BadMessage", "VersionMismatch", "Misbehaviour",
     "FedInferError", "TransportError"}
)  # fmt: skip


def reason(error: FedInferError) -> str:
    """Why an update was refused, for the server: the class of the error and a sentence of the list.

    Args:
        error: as it was raised; its own text is not used.
    """
    name = type(error).__name__
    sentence = str(error.refusal) if isinstance(error, GateFailed) else SENTENCES.get(name, UNTOLD)
    return f"{name if name in SENTENCES else FedInferError.__name__}: {sentence}"


def discreet(name: str, text: str) -> tuple[str, str]:
    """Class and text of an error that may leave the device.

    Args:
        name: class of the error.
        text: its message, which is sent for errors of the protocol only.

    Returns:
        The class, or FedInferError for one that is not listed, and at most MAX_DETAIL characters.
    """
    if name in _PROTOCOL:
        return name, text[:MAX_DETAIL]
    return (name, SENTENCES[name]) if name in SENTENCES else (FedInferError.__name__, UNTOLD)
