"""Models on devices: pushed, withdrawn, watched, and whether they are well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedinfer.messages.fields import KIB, MIB, Files, Reason
from fedinfer.wire import MAX_BYTES, Most, Shown


@dataclass(frozen=True, slots=True)
class PushRequest:
    """TUF metadata and target files that bring a device to the newest allowed version.

    Args:
        version: that the device will run.
        files: path below the repository to bytes.
        patch_from: SHA-256 of the model file that a patch among the files starts from; empty: the whole model is there.
    """

    MOST_BYTES: ClassVar[int] = MAX_BYTES
    version: int
    files: Files
    patch_from: Annotated[str, Most(64)] = ""


@dataclass(frozen=True, slots=True)
class PushReply:
    """What the device did with a push.

    Args:
        installed: it runs the model.
        version: that is active now.
        reason: why it refused; empty when it did not.
        whole: it could not use the patch and asks for the whole model.
    """

    MOST_BYTES: ClassVar[int] = 16 * KIB
    installed: bool
    version: int
    reason: Reason
    whole: bool = False


@dataclass(frozen=True, slots=True)
class WithdrawRequest:
    """A hint that a version turned out bad. What counts is the list that the repository signed.

    Args:
        version: that is meant.
        files: TUF metadata, path below the repository to bytes; the list of targets among them names what is withdrawn.
    """

    MOST_BYTES: ClassVar[int] = 64 * MIB
    version: int
    files: Files


@dataclass(frozen=True, slots=True)
class WithdrawReply:
    """What serves after a withdrawal.

    Args:
        withdrawn: the signed list names the version, so it neither serves nor is it installed again.
        version: that serves now; 0: none.
        reason: why it was not withdrawn; empty otherwise.
    """

    MOST_BYTES: ClassVar[int] = 16 * KIB
    withdrawn: bool
    version: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """Infer on the device's own rows until this window is full.

    Args:
        window: its number, from 1.
    """

    MOST_BYTES: ClassVar[int] = KIB
    window: int


@dataclass(frozen=True, slots=True)
class WindowReply:
    """A window is full. The simulated facts are empty on a real device: nobody may see them there.

    Args:
        ready: False when the device has no model, or has predicted too little for a window.
        version: model version that served; 0: none.
        simulated_rows, simulated_correct: rows and correct labels of this window.
        simulated_latencies_us: one latency per row.
    """

    MOST_BYTES: ClassVar[int] = 9 * MIB
    ready: bool
    version: int
    simulated_rows: int
    simulated_correct: int
    simulated_latencies_us: Annotated[tuple[float, ...], Most(MIB)]


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """Which model do you run?"""

    MOST_BYTES: ClassVar[int] = KIB
    nonce: int


@dataclass(frozen=True, slots=True)
class HealthReply:
    """State of the device.

    Args:
        version: of the model that is active; 0: none.
        slot: in which it lies; empty: none.
        refused: how often the device's ledger refused to spend, in this process.
    """

    MOST_BYTES: ClassVar[int] = KIB
    version: int
    slot: Annotated[str, Shown(8)]
    refused: int
