"""Detectors of others on pooled rows, with their defaults; a program for whatever environment they are installed in.

Evidently 0.7.23 breaks with pandas 3 and NannyML 0.13.1 pins older packages, so neither can be installed beside the
product: `pip install evidently==0.7.23 "pandas<3"` and `pip install nannyml==0.13.1 statsmodels`, each apart.

    python benchmarks/_drift_peers.py NAME ROWS.npz
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np

warnings.filterwarnings("ignore")
Bits = np.ndarray
Watcher = Callable[[np.ndarray, np.ndarray, int], Bits]
"""Rows (windows, n), errors (windows, devices), number of reference windows: which of the other windows alarm."""


def evidently(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    """DataDriftPreset as it comes: Wasserstein distance above 0.1 for so many rows."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before = pd.DataFrame({"x": x[:reference].ravel()})
    alarms = []
    for window in x[reference:]:
        found = Report([DataDriftPreset()]).run(pd.DataFrame({"x": window}), before).dict()
        alarms.append(
            any(metric["value"]["count"] > 0 for metric in found["metrics"] if "count" in str(metric["value"]))
        )
    return np.array(alarms)


def nannyml(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    """UnivariateDriftCalculator as it comes: Jensen-Shannon distance beyond 3 deviations of reference chunks."""
    import nannyml as nml
    import pandas as pd

    size = x.shape[1]
    found = nml.UnivariateDriftCalculator(column_names=["x"], chunk_size=size)
    found.fit(pd.DataFrame({"x": x[:reference].ravel()}))
    table = found.calculate(pd.DataFrame({"x": x[reference:].ravel()})).filter(period="analysis").to_df()
    return np.asarray(table[("x", "jensen_shannon", "alert")], bool)


def ks(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    """Two-sample Kolmogorov-Smirnov test at 0.01 of each window against all reference rows."""
    from scipy.stats import ks_2samp

    before = x[:reference].ravel()
    return np.array([ks_2samp(before, window, method="asymp").pvalue < 0.01 for window in x[reference:]])


def _stream(detector: object, errors: np.ndarray, reference: int) -> Bits:
    alarms = np.zeros(len(errors), bool)
    for window, bits in enumerate(errors):
        for bit in bits.tolist():
            detector.update(bit)  # type: ignore[attr-defined]
            alarms[window] |= detector.drift_detected  # type: ignore[attr-defined]
    return alarms[reference:]


def adwin(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    from river import drift

    return _stream(drift.ADWIN(), errors, reference)


def page_hinkley(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    from river import drift

    return _stream(drift.PageHinkley(), errors, reference)


def ddm(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    from river import drift

    return _stream(drift.binary.DDM(), errors, reference)


def kswin(x: np.ndarray, errors: np.ndarray, reference: int) -> Bits:
    """On 20 rows of a window, because it tests after every one."""
    from river import drift

    return _stream(drift.KSWIN(seed=1), x[:, :20].astype(float), reference)


WATCHERS: dict[str, tuple[str, tuple[Watcher, ...]]] = {
    "scipy": ("scipy", (ks,)),
    "evidently": ("evidently", (evidently,)),
    "nannyml": ("nannyml", (nannyml,)),
    "river": ("river", (adwin, page_hinkley, ddm, kswin)),
}
"""By name: the package, and its detectors."""


def cases(path: str) -> Iterator[tuple[str, np.ndarray, np.ndarray, int]]:
    """Name, rows (runs, windows, n), errors (runs, windows, devices), reference windows."""
    with np.load(path) as data:
        names = sorted(name[2:] for name in data.files if name.startswith("x "))
        for name in names:
            yield name, data[f"x {name}"], data[f"e {name}"], int(data["reference"])


def main() -> None:
    name, path = sys.argv[1:3]
    package, watchers = WATCHERS[name]
    __import__(package)
    found: dict[str, dict[str, object]] = {watcher.__name__: {} for watcher in watchers}
    for case, x, errors, reference in cases(path):
        for watcher in watchers:
            start = time.perf_counter()
            alarms = [watcher(rows, bits, reference).tolist() for rows, bits in zip(x, errors, strict=True)]
            seconds = time.perf_counter() - start
            windows = len(x) * (x.shape[1] - reference)
            found[watcher.__name__][case] = {"alarms": alarms, "ms_per_window": 1e3 * seconds / windows}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
