"""Channels for tests of the mathematics, which never count anything."""

from fedinfer.drift.channels import Bins, Channel, Counts, Outputs, Source


def uncounted(name: str, bins: int, kind: Bins, source: Source) -> Channel:
    def count(outputs: Outputs) -> Counts:
        raise AssertionError("this test counts nothing")

    return Channel(name, bins, kind, source, count, 0.5)
