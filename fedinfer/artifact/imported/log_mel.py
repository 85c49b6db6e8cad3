"""Raw samples to a log-mel spectrogram, as graph parts and once more in numpy, so that one is checked by the other.

Order: half a transform reflected at both ends, where frames are centred; frames under a periodic Hann window, in the
middle of the transform; the discrete Fourier transform (ONNX "STFT", operator set 17); energies or amplitudes; mel
bands, triangles over Hz between points that are even on the mel scale (Davis and Mermelstein 1980); floor, offset,
logarithm; less the mean, divided by the standard deviation; bands or frames first, as the model has them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fedinfer.artifact.imported.audio import Audio
from fedinfer.artifact.imported.declaration import InputSpec
from fedinfer.artifact.imported.pixels import Constant, Node
from fedinfer.errors import ConfigError
from fedinfer.tensors import TensorSpec

OPSET = 17
"""The first operator set that has the transform."""
Floats = npt.NDArray[np.float64]


def raw_samples(spec: InputSpec, audio: Audio) -> TensorSpec:
    """The raw samples that rows bring.

    Args:
        spec: of the input.
        audio: of the raw samples.

    Raises:
        ConfigError: the input is no spectrogram of so many bands and frames.
    """
    bands_first(spec, audio)
    return TensorSpec(spec.name, "float32", (audio.samples,), -1.0, 1.0)


def bands_first(spec: InputSpec, audio: Audio) -> bool:
    """Whether a spectrogram begins with its bands; where there are as many frames it does.

    Args:
        spec: of the input; sizes of 1 do not count.
        audio: of the raw samples.

    Raises:
        ConfigError: the sizes are not those of bands and frames.
    """
    sizes = sorted(size for size in spec.shape if size != 1)
    wanted = [size for size in (audio.bands, audio.frames) if size != 1]
    if sizes != sorted(wanted):
        raise ConfigError(
            f"input {spec.name} of shape {list(spec.shape)}: audio makes {audio.bands} bands of {audio.frames} frames",
            hint="samples, hop, centred and bands decide about these numbers",
        )
    return [size for size in spec.shape if size != 1] == wanted


def add_log_mel(spec: InputSpec, audio: Audio, values: str, node: Node, constant: Constant, batch: int) -> str:
    """Graph parts from the samples of a row to the model's input, (batch, *its shape) in float32.

    Args:
        spec: of the input.
        audio: of the raw samples.
        values: name of the samples, (batch, samples).
        node: appends a node and gives the name of its output.
        constant: appends a constant and gives its name.
        batch: first size of a Reshape.
    """
    if audio.pad:
        around = constant(np.array([0, audio.pad, 0, audio.pad], np.int64))
        values = node("Pad", [values, around], mode="reflect")
    length = audio.samples + 2 * audio.pad
    signal = node("Reshape", [values, constant(np.array([batch, length, 1], np.int64))])
    hop, size = (constant(np.array(number, np.int64)) for number in (audio.hop, audio.size))
    window = constant(_window(audio).astype(np.float32))
    parts = node("STFT", [signal, hop, window, size], onesided=1)
    last = constant(np.array([3], np.int64))
    energy = node("ReduceSum", [node("Mul", [parts, parts]), last], keepdims=0)
    if audio.power == 1:
        energy = node("Sqrt", [energy])
    bands = node("MatMul", [energy, constant(mel_bands(audio).astype(np.float32))])
    bands = node("Add", [node("Max", [bands, _number(constant, audio.floor)]), _number(constant, audio.offset)])
    if audio.log != "none":
        bands = node("Mul", [node("Log", [bands]), _number(constant, _factor(audio))])
    bands = node("Div", [node("Sub", [bands, _number(constant, audio.mean)]), _number(constant, audio.std)])
    if bands_first(spec, audio):
        bands = node("Transpose", [bands], perm=[0, 2, 1])
    return node("Reshape", [bands, constant(np.array([batch, *spec.shape], np.int64))])


def log_mel(spec: InputSpec, audio: Audio, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same in numpy.

    Args:
        spec: of the input.
        audio: of the raw samples.
        rows: float32 (n, samples).

    Returns:
        float32 (n, *shape of the input).
    """
    found = np.empty((len(rows), *spec.shape), np.float32)
    for place, row in enumerate(rows):  # the frames of one row are a lot
        found[place] = _of_row(spec, audio, row)
    return found


def _of_row(spec: InputSpec, audio: Audio, row: npt.NDArray[np.float32]) -> Floats:
    samples = np.pad(row.astype(np.float64), audio.pad, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(samples, audio.size)[:: audio.hop]
    energy = np.abs(np.fft.rfft(frames * _window(audio), axis=1)) ** audio.power
    bands = np.maximum(energy @ mel_bands(audio), audio.floor) + audio.offset
    if audio.log != "none":
        bands = np.log(bands) * _factor(audio)
    bands = (bands - audio.mean) / audio.std
    if bands_first(spec, audio):
        bands = bands.T
    return np.asarray(bands.reshape(spec.shape))


def mel_bands(audio: Audio) -> Floats:
    """Weights of the frequencies of a transform in the bands, float64 (size // 2 + 1, bands).

    Args:
        audio: rate, size, bands, ends, scale and norm.
    """
    frequencies = np.arange(audio.size // 2 + 1) * audio.rate / audio.size
    ends = _hertz(np.linspace(_mel(audio.low, audio.scale), _mel(audio.top, audio.scale), audio.bands + 2), audio.scale)
    rise = (frequencies[:, None] - ends[None, :-2]) / np.diff(ends)[:-1]
    fall = (ends[None, 2:] - frequencies[:, None]) / np.diff(ends)[1:]
    weights: Floats = np.maximum(0.0, np.minimum(rise, fall))
    return weights * (2.0 / (ends[2:] - ends[:-2])) if audio.norm == "slaney" else weights


_KNEE, _STEP, _GROWTH = 1000.0, 200.0 / 3.0, math.log(6.4) / 27.0
"""Slaney's scale: even steps up to the knee, then each step multiplies the frequency."""


def _mel(hertz: float, scale: str) -> float:
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hertz / 700.0)
    return hertz / _STEP if hertz < _KNEE else _KNEE / _STEP + math.log(hertz / _KNEE) / _GROWTH


def _hertz(mel: Floats, scale: str) -> Floats:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    knee = _KNEE / _STEP
    return np.where(mel < knee, mel * _STEP, _KNEE * np.exp(_GROWTH * (mel - knee)))


def _window(audio: Audio) -> Floats:
    """A periodic Hann window in the middle of the transform."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(audio.frame) / audio.frame)
    before = (audio.size - audio.frame) // 2
    return np.pad(window, (before, audio.size - audio.frame - before))


def _factor(audio: Audio) -> float:
    return {"ln": 1.0, "log10": 1.0 / math.log(10.0), "db": 10.0 / math.log(10.0)}[audio.log]


def _number(constant: Constant, value: float) -> str:
    return constant(np.array(value, np.float32))
