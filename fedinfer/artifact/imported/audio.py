"""The declared steps from raw samples to the log-mel spectrogram that a speech model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedinfer.errors import ConfigError

MOST_SAMPLES, MOST_FFT, MOST_BANDS = 2**20, 2**13, 512
MOST_FRAMED = 2**24
"""Values of all frames of a row, before their transform and in their bands: an hour of speech has less in one row."""
LOGS = ("none", "ln", "log10", "db")
"""Of the energies: as they are, natural and decimal logarithm, and ten times the decimal one."""
SCALES = ("htk", "slaney")
NORMS = ("none", "slaney")


@dataclass(frozen=True, slots=True)
class Audio:
    """Raw samples in place of what the graph takes: framed, windowed, transformed, summed up in mel bands.

    The names of torchaudio and librosa for these: n_fft, win_length, hop_length, n_mels, f_min, f_max, mel_scale, norm.

    Args:
        samples: of a row, in [-1, 1].
        rate: samples in a second, Hz.
        frame, hop: samples of a frame, and from one frame to the next.
        bands: of the mel scale.
        fft: samples that are transformed, at least a frame, which lies in the middle of them; 0: a frame.
        low, high: ends of the bands, Hz; high 0: half of the rate.
        scale: of the bands, "htk" (Young et al., The HTK Book) or "slaney" (Slaney 1998, Auditory Toolbox).
        norm: "slaney": every band has the same area; "none": every band has the height 1.
        centred: frames lie around their first sample, and half a transform is reflected at both ends.
        power: 2: energies, 1: amplitudes.
        log: of `LOGS`.
        floor, offset: a smaller value counts as the floor, then the offset is added; before the logarithm. Below about
            1e-7 the rounding of float32 speaks where a band is silent, and every library rounds otherwise.
        mean, std: taken off the logarithm, and divided by.
    """

    samples: int
    rate: int
    frame: int
    hop: int
    bands: int
    fft: int = 0
    low: float = 0.0
    high: float = 0.0
    scale: str = "htk"
    norm: str = "none"
    centred: bool = True
    power: int = 2
    log: str = "ln"
    floor: float = 1e-6
    offset: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _within("samples", self.samples, 1, MOST_SAMPLES)
        _within("rate", self.rate, 1, 10**6)
        _within("fft", self.size, 2, MOST_FFT)
        _within("frame", self.frame, 2, self.size)
        _within("hop", self.hop, 1, MOST_SAMPLES)
        _within("bands", self.bands, 1, MOST_BANDS)
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise ConfigError(
                f"audio: bands from {self.low:g} to {self.top:g} Hz; half of the rate is {self.rate / 2:g}"
            )
        for name, value, known in (
            ("scale", self.scale, SCALES), ("norm", self.norm, NORMS), ("log", self.log, LOGS),
            ("power", self.power, (1, 2)),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"audio: {name} {str(value)[:40]}: one of {', '.join(map(str, known))}")
        numbers = (self.floor, self.offset, self.mean, self.std)
        if not all(math.isfinite(value) for value in numbers) or min(self.floor, self.offset) < 0 or self.std <= 0:
            raise ConfigError("audio: floor and offset are not below 0, std is above it, and all are finite")
        if self.log != "none" and not self.floor + self.offset > 0:
            raise ConfigError("audio: the logarithm of nothing: give a floor or an offset")
        if self.samples < (self.pad + 1 if self.centred else self.size):
            raise ConfigError(f"audio: {self.samples} samples are fewer than a transform of {self.size} needs")
        if self.frames * max(self.size, self.bands) > MOST_FRAMED:
            raise ConfigError(
                f"audio: {self.frames} frames of {self.size} samples and {self.bands} bands: at most {MOST_FRAMED} "
                "values",
                hint="a larger hop, or fewer samples in a row",
            )

    @property
    def size(self) -> int:
        """Samples that are transformed."""
        return self.fft or self.frame

    @property
    def top(self) -> float:
        """Upper end of the bands, Hz."""
        return self.high or self.rate / 2

    @property
    def pad(self) -> int:
        """Samples that are reflected at each end."""
        return self.size // 2 if self.centred else 0

    @property
    def frames(self) -> int:
        """Frames of a row."""
        return 1 + (self.samples + 2 * self.pad - self.size) // self.hop


def audio_from(values: Mapping[str, Any], where: str) -> Audio:
    """The steps of a table or of words.

    Args:
        values: by name of the arguments of `Audio`; numbers, or texts of numbers.
        where: for messages.

    Raises:
        ConfigError: an unknown or missing name, a wrong type, or a rule that is broken.
    """
    known = {item.name: item for item in fields(Audio)}
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        raise ConfigError(f"{where}: audio has no {ascii(unknown)[:40]}", hint=f"it has {', '.join(known)}")
    absent = [name for name in ("samples", "rate", "frame", "hop", "bands") if name not in values]
    if absent:
        raise ConfigError(f"{where}: audio lacks {', '.join(absent)}")
    return Audio(**{name: _typed(name, str(known[name].type), value, where) for name, value in values.items()})


def audio_values(audio: Audio) -> dict[str, Any]:
    """What `audio_from` reads back: the arguments that are not as they are by themselves.

    Args:
        audio: to write.
    """
    usual = {item.name: item.default for item in fields(Audio)}
    return {name: value for name, value in asdict(audio).items() if value != usual[name]}


def _typed(name: str, kind: str, value: Any, where: str) -> Any:
    try:
        if kind == "bool" and str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if kind == "str" and isinstance(value, str):
            return value
        if kind in ("int", "float") and not isinstance(value, bool):
            return int(str(value)) if kind == "int" else float(value)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ConfigError(f"{where}: audio {name} = {ascii(value)[:40]} is no {kind}")


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"audio: {name} {value} is not in {least} to {most}")
