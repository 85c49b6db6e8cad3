"""Raw samples to a log-mel spectrogram: as torch and torchaudio make it, left alone by quantizers.

`BANKS` are the filter banks of torchaudio 2.11, `functional.melscale_fbanks(17, 100.0, 7000.0, 4, 16000, norm, scale)`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedinfer.artifact.export.graph import OutputHead, finish, run
from fedinfer.artifact.imported.adapt import adapt, feeds_of, schema_of
from fedinfer.artifact.imported.audio import Audio, audio_from, audio_values
from fedinfer.artifact.imported.declaration import Declaration, InputSpec, ModelTask, OutputSpec, Use
from fedinfer.artifact.imported.image import Image
from fedinfer.artifact.imported.log_mel import mel_bands
from fedinfer.artifact.imported.model_toml import from_toml, to_toml
from fedinfer.artifact.imported.outside import parse
from fedinfer.artifact.imported.steps import raw_of
from fedinfer.artifact.imported.trial import calibration_rows
from fedinfer.artifact.quantize.quantize import apply, prepare
from fedinfer.artifact.quantize.schemes import DYNAMIC, INT8_WEIGHTS, STATIC_S8, family_of
from fedinfer.errors import ConfigError
from fedinfer.manifest import VALUE
from fedinfer.system import simulation_rng
from fedinfer.tensors import TensorSpec
from fedinfer.types import GraphFamily
from tests.unit.artifact import foreign_models as foreign

SMALL = Audio(samples=2000, rate=16000, frame=400, hop=160, bands=8)
BANKS = {
    ("htk", "none"): [
        (0, [0, 0.872868, 0.387119]), (2, [0.612881, 0.805069, 0.364008]),
        (3, [0.194931, 0.635992, 0.95101, 0.670584, 0.390158, 0.109732]),
        (5, [0.04899, 0.329416, 0.609842, 0.890268, 0.891473, 0.713178, 0.534884, 0.356589, 0.178295]),
    ],
    ("slaney", "slaney"): [
        (0, [0, 0.00125, 0.000731]), (2, [0.000744, 0.000949, 0.000287]),
        (3, [0.000193, 0.000576, 0.000621, 0.000405, 0.00019]),
        (5, [0.000069, 0.00019, 0.000311, 0.00041, 0.000342, 0.000273, 0.000205, 0.000137, 0.000068]),
    ],
}  # fmt: skip


def declared(audio: Audio, shape: tuple[int, ...], one_row: bool = False, outputs: int = 0) -> Declaration:
    size = outputs or int(np.prod(shape))
    return Declaration(
        "m", ModelTask.TENSORS, "label", (), one_row, False, "",
        (InputSpec("mel", "float32", shape, 0, audio=audio),),
        (OutputSpec("y", "float32", (size,), 0, Use.VALUE, -1, 1),),
    )  # fmt: skip


def flat(shape: tuple[int, ...], opset: int = 17, one_row: bool = False) -> bytes:
    batch = 1 if one_row else "n"
    return foreign.model_bytes(
        [("Flatten", ["mel"], ["flat"]), ("Identity", ["flat"], ["y"])],
        [("mel", foreign.F, [batch, *shape])], [("y", foreign.F, [batch, int(np.prod(shape))])], opset=opset,
    )  # fmt: skip


def in_torch(audio: Audio, rows: np.ndarray) -> np.ndarray:
    """(n, bands, frames), the spectrum by torch.stft."""
    spectrum = torch.stft(
        torch.from_numpy(rows), audio.size, audio.hop, audio.frame, torch.hann_window(audio.frame),
        center=audio.centred, return_complex=True,
    ).abs().numpy() ** audio.power  # fmt: skip
    bands = np.maximum(np.einsum("nft,fb->nbt", spectrum, mel_bands(audio)), audio.floor) + audio.offset
    told = {"none": bands, "ln": np.log(bands), "log10": np.log10(bands), "db": 10 * np.log10(bands)}[audio.log]
    return (told - audio.mean) / audio.std


@pytest.mark.parametrize(("scale", "norm"), BANKS)
def test_bands_are_those_of_torchaudio(scale: str, norm: str) -> None:
    audio = Audio(32, 16000, 32, 16, 4, low=100.0, high=7000.0, scale=scale, norm=norm)
    expected = np.zeros((17, 4))
    for band, (first, weights) in enumerate(BANKS[scale, norm]):
        expected[first : first + len(weights), band] = weights
    np.testing.assert_allclose(mel_bands(audio), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("audio", "first"),
    [
        (SMALL, True), (replace(SMALL, power=1, log="db", centred=False), False),
        (replace(SMALL, fft=512, scale="slaney", norm="slaney", log="log10", offset=1e-6, high=7600.0), True),
        (replace(SMALL, log="none", hop=200, mean=0.5, std=2.0), False),
    ],
    ids=["usual", "amplitudes", "slaney", "no logarithm"],
)  # fmt: skip
@pytest.mark.parametrize("one_row", [False, True])
def test_the_graph_and_numpy_make_what_torch_makes(audio: Audio, first: bool, one_row: bool) -> None:
    shape = (1, audio.bands, audio.frames) if first else (audio.frames, audio.bands)
    rows = simulation_rng("log mel").normal(0, 0.2, (3, audio.samples)).astype(np.float32)
    expected = in_torch(audio, rows)
    expected = (expected if first else expected.transpose(0, 2, 1)).reshape(3, -1)
    found = declared(audio, shape, one_row)
    assert schema_of(found).inputs == (TensorSpec("mel", "float32", (audio.samples,), -1.0, 1.0),)
    np.testing.assert_allclose(feeds_of(found, rows)["mel"].reshape(3, -1), expected, rtol=1e-4, atol=1e-4)
    core = adapt(parse(flat(shape, one_row=one_row)), found)
    said = run(finish(core, OutputHead(schema_of(found), 1.0, "m", 1)), rows, VALUE)
    np.testing.assert_allclose(said, expected, rtol=1e-3, atol=1e-3)


def test_an_old_operator_set_is_raised() -> None:
    shape = (SMALL.bands, SMALL.frames)
    core = adapt(parse(flat(shape, opset=11)), declared(SMALL, shape))
    assert [item.version for item in core.opset_import if not item.domain] == [17]
    rows = simulation_rng("log mel").normal(0, 0.2, (2, SMALL.samples)).astype(np.float32)
    said = run(finish(core, OutputHead(schema_of(declared(SMALL, shape)), 1.0, "m", 1)), rows, VALUE)
    np.testing.assert_allclose(said, in_torch(SMALL, rows).reshape(2, -1), atol=1e-3)


@pytest.mark.parametrize("scheme", [STATIC_S8, DYNAMIC, INT8_WEIGHTS], ids=lambda scheme: scheme.name)
def test_quantizers_leave_the_steps_alone(scheme) -> None:
    shape = (SMALL.bands, SMALL.frames)
    data = foreign.model_bytes(
        [("Flatten", ["mel"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])],
        [("mel", foreign.F, ["n", *shape])], [("y", foreign.F, ["n", 6])],
        {"w": foreign.weights(int(np.prod(shape)), 6)},
    )  # fmt: skip
    core = prepare(adapt(parse(data), declared(SMALL, shape, outputs=6)))
    assert family_of(core) is GraphFamily.DENSE
    rows = simulation_rng("log mel").normal(0, 0.2, (8, SMALL.samples)).astype(np.float32)
    made = apply(scheme, core, rows)
    bank = mel_bands(SMALL).astype(np.float32)
    kept = [t for t in made.graph.initializer if tuple(t.dims) == bank.shape]
    assert [t.data_type for t in kept] == [1]  # float, and there


def test_steps_come_back_from_model_toml_and_calibration_rows_are_raw() -> None:
    audio = replace(SMALL, log="db", centred=False, mean=-40.0)
    found = declared(audio, (audio.frames, audio.bands))
    text = to_toml(found)
    assert 'log = "db"' in text
    assert from_toml(text, "model.toml").inputs == found.inputs
    assert calibration_rows(found, {"mel": np.zeros((3, 2000), np.float32)}).shape == (3, 2000)
    with pytest.raises(ConfigError, match="expected 2000 values a row"):
        calibration_rows(found, {"mel": np.zeros((3, *found.inputs[0].shape), np.float32)})
    assert audio_from({name: str(value) for name, value in audio_values(audio).items()}, "--audio") == audio


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hop": 0}, "hop 0 is not in 1 to"), ({"frame": 600, "fft": 512}, "frame 600 is not in 2 to 512"),
        ({"high": 9000}, "half of the rate is 8000"), ({"scale": "bark"}, "scale bark: one of htk, slaney"),
        ({"floor": 0}, "the logarithm of nothing"), ({"samples": 100}, "100 samples are fewer"),
        ({"std": 0}, "std is above it"), ({"hop": "often"}, "audio hop = 'often' is no int"),
        ({"window": "hamming"}, "audio has no 'window'"), ({"power": 3}, "power 3: one of 1, 2"),
        ({"samples": 2**20, "hop": 1, "frame": 8192, "fft": 8192}, "1048577 frames of 8192 samples"),
        ({"samples": 2**20, "hop": 1, "frame": 2, "fft": 2, "bands": 512}, "1048577 frames .* 512 bands"),
        ({"low": 10**400}, "audio low = 1000"), ({"rate": "1" * 5000}, "audio rate = '1111"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_are_refused(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        audio_from(audio_values(SMALL) | values, "x")


def test_what_is_needed_and_what_fits_is_said() -> None:
    with pytest.raises(ConfigError, match="audio lacks hop, bands"):
        audio_from({"samples": 1, "rate": 8000, "frame": 4}, "x")
    with pytest.raises(ConfigError, match="audio makes 8 bands of 13 frames") as caught:
        schema_of(declared(SMALL, (8, 12)))
    assert "hop" in caught.value.hint
    both = replace(declared(SMALL, (8, 13)).inputs[0], image=Image(8, 13))
    with pytest.raises(ConfigError, match="several of an image, audio and words"):
        raw_of(both)
