"""The binding keys of run.json, schema 1, with their types. More keys are welcome, none may be missing."""

from __future__ import annotations

from typing import Any

from fedinfer.types import Json

NUMBER, TEXT, COUNT = (int, float), (str,), (int,)
MAYBE = (int, float, type(None))

SHAPE: Json = {
    "schema": COUNT,
    "scenario": TEXT,
    "seed": COUNT,
    "engine": TEXT,
    "status": TEXT,
    "seconds": NUMBER,
    "task": {"kind": TEXT, "metric": TEXT},
    "population": COUNT,
    "metrics": {"accuracy": NUMBER, "auc": NUMBER},
    "rounds": [
        {
            "round": COUNT,
            "reason": TEXT,
            "cohort": COUNT,
            "survivors": COUNT,
            "status": TEXT,
            "metric": NUMBER,
            "metrics": {"accuracy": NUMBER, "auc": NUMBER},
            "loss": NUMBER,
            "epsilon": NUMBER,
            "seconds": NUMBER,
            "bytes_up_per_device": COUNT,
            "bytes_down_per_device": COUNT,
        }
    ],
    "privacy": {
        "unit": TEXT,
        "trust": TEXT,
        "epsilon": NUMBER,
        "delta": NUMBER,
        "budget": NUMBER,
        "accountant": TEXT,
        "relation": TEXT,
        "sampling": TEXT,
        "clipping_norm": NUMBER,
        "noise_multiplier": NUMBER,
    },
    "secure_aggregation": {"mode": TEXT, "threshold": COUNT, "neighbors": COUNT, "bits": COUNT},
    "signing": {"root_keys": TEXT, "root_version": COUNT},
    "models": [
        {
            "version": COUNT,
            "sha256": TEXT,
            "float_metric": NUMBER,
            "quantized_metric": NUMBER,
            "float_bytes": COUNT,
            "quantized_bytes": COUNT,
            "recipe": TEXT,
            "devices_active": COUNT,
            "pushed": {"whole": COUNT, "patch": COUNT, "both": COUNT, "model_bytes": COUNT, "bytes": COUNT},
        }
    ],
    "inference": {"predictions": COUNT, "latency_us": {"p50": NUMBER, "p99": NUMBER}, "metric": MAYBE},
    "drift": {
        "windows": COUNT,
        "alarms": [
            {
                "window": COUNT,
                "channel": TEXT,
                "p_value": NUMBER,
                "moved": [{"bin": TEXT, "before": NUMBER, "change": NUMBER, "low": NUMBER, "high": NUMBER}],
            }
        ],
        "triggered_rounds": COUNT,
        "metric_before": MAYBE,
        "metric_during": MAYBE,
        "metric_after": MAYBE,
    },
    "devices": {"refused": COUNT, "dropped": COUNT},
}


def missing(value: Any, shape: Any = SHAPE, at: str = "run.json") -> list[str]:
    """Keys that are not there and values of another type."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{at} is no object"]
        absent = [f"{at}.{key} is missing" for key in shape if key not in value]
        return absent + [
            line for key in shape if key in value for line in missing(value[key], shape[key], f"{at}.{key}")
        ]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{at} is no list"]
        return [line for i, item in enumerate(value) for line in missing(item, shape[0], f"{at}[{i}]")]
    right = isinstance(value, shape) and not isinstance(value, bool)
    return [] if right else [f"{at} is {type(value).__name__}"]
