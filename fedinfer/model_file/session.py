"""The one place where a session of the runtime is made, from bytes that were judged before."""

from __future__ import annotations

import re

import onnxruntime as ort

from fedinfer.errors import GateFailed, Refusal
from fedinfer.model_file.inspection import CheckedModel

_FATAL_ONLY = 4  # ONNX Runtime writes to stderr by itself; a device's log belongs to the program that embeds us
ort.disable_telemetry_events()  # for a program that loaded the runtime before fedinfer; see fedinfer/__init__.py
_ABOUT = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_RUNNING = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'[^']*' Status Message: ")
_SOURCE = re.compile(r"/\S+:\d+ [\w:~]+\([^()]*\) ?(?:const )?")
NOWHERE = "/dev/null/no-file-belongs-to-a-model"
"""Where the runtime would look for data outside a model: below a file, so nothing can ever be there."""


def open_checked(model: CheckedModel, *, arena: bool = True) -> ort.InferenceSession:
    """A session with one thread on the CPU, which has no folder to resolve a path in.

    Args:
        model: that `check_model` accepted.
        arena: keep memory between runs; without it, what one run took does not change what another one gets.

    Raises:
        GateFailed: when the runtime refuses the bytes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the other format is not inspected
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    # No fallback: there is one provider, and the attempt would be announced on stdout.
    try:
        return ort.InferenceSession(model.data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # a dozen classes without a root of their own; names that are not UTF-8 as well
        raise GateFailed(
            f"the model of {len(model.data)} bytes cannot be loaded: {first_line(error)}", Refusal.NOT_LOADED
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of a foreign error, at most 200 characters: its text is long and repeats internals.

    Of what the runtime says, its own codes and places in its source are left out, and a failing operator is named.

    Args:
        error: of ONNX Runtime or another library; one without a text gives its class name.
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return _SOURCE.sub("", _RUNNING.sub(r"operator \1: ", _ABOUT.sub("", line)))[:200]
