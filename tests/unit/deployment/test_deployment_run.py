"""The coordinator of a real deployment over the stores of real devices, in one process: a LocalGrid carries here what
SuperLink and SuperNodes carry in tests/e2e."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context
from flwr.serverapp import Grid

from fedinfer.coordinator.push import publish as push
from fedinfer.data import vocabulary
from fedinfer.data.vocabulary import read_words
from fedinfer.deployment.coordinate import Deployment, run_deployment
from fedinfer.deployment.node import open_host
from fedinfer.deployment.store import open_device, read_authority
from fedinfer.device import PredictionLog, RecordedPredictor, recorder_of
from fedinfer.device.counted import layout_of
from fedinfer.device.dispatch import DeviceResponder
from fedinfer.drift import Outputs, Sketch, report_channels, window_report
from fedinfer.errors import BudgetExceeded, ConfigError, DataError, FedInferError, Misbehaviour, TransportError
from fedinfer.flower.client_app import CohortClientApp, Responder
from fedinfer.flower.transport import GridTransport
from fedinfer.inference.install.installed import open_installed
from fedinfer.inference.install.slots import Slots
from fedinfer.inference.predict.session import SessionCache
from fedinfer.messages import HealthReply, Kind, PushReply, WindowReply, WindowRequest
from fedinfer.ports import Answer, Ask, Clock, Nodes
from fedinfer.privacy.accounting.ledger import ANY_TASK, Budget, Ledger
from fedinfer.schema import Text
from fedinfer.secagg.keys import IdentityKey
from fedinfer.secagg.revocation import RevocationList, sign_revocations
from fedinfer.simulation.grid import LocalGrid
from fedinfer.store import read_store
from fedinfer.system import FrozenClock, SimulatedEntropy, SystemClock
from fedinfer.training.trainer import Trainer
from fedinfer.types import Json, Relation
from fedinfer.wire import decode, encode
from tests.protocol.fleet import enrolled, revocations_of, settings, write_table
from tests.unit.artifact.key_folders import PASSPHRASE, save_new_keys

DEVICES = 5
SMALL = "training.rounds = 2\ndrift.windows = 1\nsecure_aggregation.dropout_rate = 0.2"


@dataclass
class Pilot:
    folder: Path
    stores: list[Path]
    events: list[tuple[str, Json]]
    predicts: bool = True
    window: int = 0
    nodes_of: Callable[[Grid], Nodes] = GridTransport
    on_rest: Callable[[float], None] = lambda seconds: pytest.fail("nobody is waited for here")

    def find(self, context: Context) -> tuple[str, Responder]:
        """A fresh process for every message."""
        responder = DeviceResponder(open_host(self.stores[int(context.node_config["partition-id"])]))
        return next(iter(responder.host.members)), responder

    def run(
        self,
        extra: str = SMALL,
        *,
        public: bool = True,
        name: str = "pilot",
        authority: IdentityKey | None = None,
        revocations: bytes = b"",
        clock: Clock | None = None,
    ) -> Json:
        grid = LocalGrid(OneByOne(self.find), len(self.stores), {})
        deployment = self.deployment(name, public=public, authority=authority, revocations=revocations)
        self.window = settings(extra).drift.window
        return run_deployment(
            grid, settings(extra), deployment, clock or SystemClock(), self.heard, self.on_rest, self.nodes_of
        )

    def deployment(
        self, name: str, *, public: bool = True, authority: IdentityKey | None = None, revocations: bytes = b""
    ) -> Deployment:
        signer = authority or read_authority(self.folder / "authority.key")
        folder = self.folder / "server"
        folder.mkdir(exist_ok=True)
        table = self.folder / "public.csv"
        write_table(table, 999, 60)
        keys = self.folder / "keys" / "online"
        if not keys.is_dir():
            save_new_keys(self.folder / "keys")
        return Deployment(
            run_id=name,
            folder=folder,
            authority=signer.public_bytes,
            revocations=revocations or revocations_of(signer),
            keys=keys,
            secret=lambda _what: PASSPHRASE,
            public_data=table if public else None,
        )

    def heard(self, event: str, fields: Json) -> None:
        self.events.append((event, fields))
        if event in ("pushed", "reused") and self.predicts:
            for store in self.stores:
                use(store, self.window)


def use(store: Path, count: int) -> None:
    """A program on a device predicts some rows with the model that is active now."""
    slots = Slots(store / "slots")
    if slots.active() is None:  # a device that was left out
        return
    installed, recorder = open_installed(slots, SessionCache(1)), recorder_of(store, SystemClock())
    assert recorder is not None
    schema = installed.manifest.schema
    drawn = np.zeros((count, schema.width), np.float32)
    with RecordedPredictor(installed, recorder) as predictor:
        predictor.predict(["good"] * count if schema.text is not None else drawn)


class OneByOne(CohortClientApp):
    """Each node is a process of its own."""

    def answer_cohort(self, messages: Any, contexts: Any) -> Any:
        pairs = zip(messages, contexts, strict=True)
        return [super(OneByOne, self).answer_cohort([message], [context])[0] for message, context in pairs]


@pytest.fixture
def pilot(tmp_path: Path) -> Pilot:
    return Pilot(tmp_path, enrolled(tmp_path, DEVICES, Budget(4.0, 1e-5)), [])


def test_a_pilot_trains_pushes_and_infers_on_real_devices(pilot: Pilot) -> None:
    record = pilot.run()
    assert (record["status"], record["engine"]) == ("completed", "deployment")
    assert [row["survivors"] for row in record["rounds"]] == [5, 5]
    assert record["models"][0]["devices_active"] == DEVICES
    assert record["drift"]["timeline"][0]["reporters"] == DEVICES
    assert record["secure_aggregation"]["mode"] == "protocol"
    for store in pilot.stores:
        assert Slots(store / "slots").active() is not None
        ledger = Ledger(read_store(store / "device.sqlite"))
        assert len(ledger.entries(store.name)) == 3  # two rounds and one report
        assert ledger.spent(store.name, "pilot").epsilon <= record["privacy"]["epsilon"] + 1e-9


@pytest.mark.slow
def test_a_device_that_predicted_nothing_has_no_report_and_one_that_did_reports_once(pilot: Pilot) -> None:
    pilot.predicts = False
    record = pilot.run(SMALL.replace("drift.windows = 1", "drift.windows = 2"))
    assert record["status"] == "completed"
    assert [window["reporters"] for window in record["drift"]["timeline"]] == [0, 0]
    for store in pilot.stores:
        assert len(Ledger(read_store(store / "device.sqlite")).entries(store.name)) == 2  # the rounds, and no report
        use(store, 5)
    host = open_host(pilot.stores[0])
    (device,) = host.members

    def ready(window: int) -> bool:
        answer = DeviceResponder(host).answer([Ask(device, Kind.WINDOW, encode(WindowRequest(window)))])[0]
        return decode(WindowReply, answer.body).ready

    assert ready(7)
    assert ready(8)  # window 7 was never reported, so what was seen in it is reported in window 8
    channels = report_channels(2)
    sketch = Sketch(channels)
    raw = open_installed(Slots(pilot.stores[0] / "slots"), SessionCache(1)).predictor.predict(np.zeros((5, 3))).raw
    sketch.add(Outputs(raw.argmax(1), raw))
    expected = window_report(sketch.histograms(), host.joined().scenario.privacy.unit, channels)
    np.testing.assert_allclose(host.sketches.take(device, 8, layout_of(channels)), expected)
    with pytest.raises(Misbehaviour, match="no sketch of window 7"):
        host.sketches.take(device, 7, layout_of(channels))
    assert not ready(9)


@pytest.mark.slow
def test_named_channels_are_counted_by_real_devices_and_reported(pilot: Pilot) -> None:
    named = 'drift.channels = ["confidence", "faults", "input:a", "errors"]\ndrift.reference_windows = 1'
    record = pilot.run(f"{SMALL}\n{named}".replace("rounds = 2", "rounds = 1"))
    (window,) = record["drift"]["timeline"]
    assert window["reporters"] == DEVICES
    assert window["learning"] == ["confidence", "faults", "input:a"]
    assert window["unlabelled"] == ["errors"]
    assert window["labelled"] is None
    log = PredictionLog.open(pilot.stores[0], SystemClock())
    assert log.watched() == ("confidence", "faults", "input:a", "errors")
    (reported,) = log.windows()
    assert reported.reported
    assert reported.counts["input:a"].tolist() == [5, 0, 0, 0, 0, 0, 0, 0]


WATCHED = f"{SMALL}\ndrift.wait_seconds = 3600\ndrift.poll_seconds = 60"


class Life:
    """While the server waits, time passes and devices predict."""

    def __init__(self, pilot: Pilot, uses: Sequence[Sequence[int]]) -> None:
        self.pilot, self.clock, self.rests = pilot, FrozenClock(SystemClock().now()), list[float]()
        self._uses = list(uses)

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.clock.advance(seconds)
        for device in self._uses.pop(0) if self._uses else ():
            use(self.pilot.stores[device], self.pilot.window)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uses", "rests", "reporters"),
    [
        ([[0, 1], [], [2, 3, 4]], [60.0] * 3, DEVICES),  # until everybody has closed a window
        ([[0, 1, 2, 3]], [60.0] * 60, 4),  # one predicts nothing: the others report when the wait ends
    ],
)
def test_a_window_waits_until_devices_have_predicted_enough_or_its_time_is_over(
    pilot: Pilot, uses: list[list[int]], rests: list[float], reporters: int
) -> None:
    life = Life(pilot, uses)
    pilot.predicts, pilot.on_rest = False, life.rest
    record = pilot.run(WATCHED, clock=life.clock)
    assert record["drift"]["timeline"][0]["reporters"] == reporters
    assert life.rests == rests
    waits = [fields for name, fields in pilot.events if name == "waiting"]
    assert waits == [{"window": 1, "ready": 0, "idle": DEVICES, "least": waits[0]["least"], "seconds": 3600.0}]


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e" * 10


SHOUTED = "\x1b]0;shouted\x07\x1b[2J\r\n\u202e\u2066\u200b"
"""Whole characters: a text that is cut within one is refused before anything cleans it."""


class Shouting:
    """A device that says what it likes, as long as it likes, in every field that is a text."""

    def __init__(self, responder: DeviceResponder, honest: Kind) -> None:
        self.host, self._true, self._honest = responder.host, responder, honest

    def answer(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        text = EVIL * 50_000
        said = {
            Kind.PUSH: encode(PushReply(False, 0, "-" * 60)).replace(b"-" * 60, SHOUTED.encode().ljust(60)),
            Kind.HEALTH: encode(HealthReply(0, "a", 0)) + text.encode(),
            Kind.WINDOW: text.encode(),
        }
        honest = self._true.answer(asks)
        if asks[0].kind == self._honest:
            return honest
        if asks[0].kind in said:
            return [Answer(ask.device, said[Kind(ask.kind)]) for ask in asks]
        if asks[0].kind == Kind.SHARES:
            return [Answer(text, b"", text, text) for _ in asks]
        return honest


@pytest.mark.parametrize(("honest", "told"), [(Kind.PUSH, ("owned",)), (Kind.HEALTH, ("owned", "shouted"))])
def test_a_device_that_shouts_neither_fills_the_record_nor_steers_the_terminal(
    pilot: Pilot, honest: Kind, told: tuple[str, ...]
) -> None:
    """Reasons of 2 MB with ESC in them were kept whole in events.jsonl, rollout.sqlite and run.json.

    A device whose health cannot be read is offered no model, so one that gives a reason for refusing it is well.
    """
    find = pilot.find

    def one_shouts(context: Context) -> tuple[str, Responder]:
        device, responder = find(context)
        return device, Shouting(responder, honest) if int(context.node_config["partition-id"]) == 0 else responder

    pilot.find = one_shouts  # type: ignore[method-assign, assignment]  # in front of the true one
    record = pilot.run(SMALL + "\nrollout.max_failure_rate = 0.5")
    assert record["status"] == "completed"
    written = [*_texts(record), *_texts([fields for _, fields in pilot.events])]
    for word in told:  # in an error; as the reason why it did not install
        assert any(word in text for text in written), "what the device said is told, once it is harmless"
    assert all(text.isprintable() and len(text) <= 1200 for text in written)
    assert b"\x1b]0;" not in b"".join(path.read_bytes() for path in pilot.folder.glob("server/rollout.sqlite*"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        yield from (text for pair in value.items() for item in pair for text in _texts(item))
    if isinstance(value, list | tuple):
        yield from (text for item in value for text in _texts(item))


def test_a_pilot_learns_from_texts_with_words_that_only_the_server_reads(
    pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, read = pilot.folder / "words.txt", []
    words.write_text("good\nbad\n")
    for store in pilot.stores:
        rows = [f'"{"Good" if row % 2 else "bad"},\n""very"" ({row})",{("no", "yes")[row % 2]}' for row in range(30)]
        store.with_suffix(".csv").write_text("\n".join(["a,y", *rows]) + "\n")
    monkeypatch.setattr(vocabulary, "read_words", lambda path: read.append(path) or read_words(path))
    texts = f'data.ranges = {{}}\ndata.text = "a"\ndata.vocabulary = "{words}"\ndata.text_length = 5'
    record = pilot.run(f'{SMALL}\n{texts}\nmodel.kind = "bag"\nmodel.hidden = [4]\nartifact.max_metric_drop = 0.9')
    assert record["models"][0]["devices_active"] == DEVICES
    assert read == [words]
    installed = open_installed(Slots(pilot.stores[0] / "slots"), SessionCache(1))
    assert installed.manifest.schema.text == Text("a", 5, ("good", "bad"))
    assert installed.predictor.predict_one("Good,\nvery").probabilities.shape == (2,)


def test_nothing_of_the_devices_is_revealed(pilot: Pilot) -> None:
    """What a simulation may know of its devices, a deployment does not."""
    record = pilot.run()
    assert record["inference"]["predictions"] == 0
    assert record["drift"]["timeline"][0]["metric"] is None
    assert record["drift"]["metric_before"] is None


def test_a_pilot_without_public_rows_runs_and_says_that_no_metric_is_known(pilot: Pilot) -> None:
    record = pilot.run(public=False)
    assert record["status"] == "completed"
    assert [row["metric"] for row in record["rounds"]] == [None, None]
    assert record["models"][0]["devices_active"] == DEVICES


SLIM = f"{SMALL}\nartifact.pruning = 0.3\nartifact.qat_steps = 5"


def test_files_are_fine_tuned_on_public_rows_that_do_not_judge(pilot: Pilot, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    compress, build = Trainer.compress, push.build_artifact
    monkeypatch.setattr(Trainer, "compress", lambda self, w, x, *rest: seen.append(x) or compress(self, w, x, *rest))
    monkeypatch.setattr(push, "build_artifact", lambda *given: seen.append(given[2].held_x) or build(*given))
    record = pilot.run(SLIM)
    assert record["models"][0]["slimming"]["qat_steps"] == 5
    judged, tuned = seen[0], seen[1]
    assert len(judged) == len(tuned) == 30
    assert not {row.tobytes() for row in judged} & {row.tobytes() for row in tuned}


def test_fine_tuning_without_public_rows_is_refused_before_a_round(pilot: Pilot) -> None:
    with pytest.raises(ConfigError, match="rows of devices are never used"):
        pilot.run(SLIM, public=False)
    assert not (pilot.folder / "server" / "ledger.sqlite").exists()


def test_later_runs_find_what_earlier_ones_spent(pilot: Pilot) -> None:
    """A new run id on the server gets no new budget on any device."""
    failure: FedInferError | None = None
    for number in range(8):
        try:
            pilot.run(SMALL + "\nrollout.max_public_drop = 1.0", name=f"run{number}")
        except FedInferError as error:
            failure = error
            break
    assert isinstance(failure, BudgetExceeded), failure
    assert "devices refuse by their own ledgers" in str(failure)
    owner = pilot.stores[0].name
    ledger = Ledger(read_store(pilot.stores[0] / "device.sqlite"))
    spent = ledger.spent_at(owner, ANY_TASK, 1e-5, Relation.ADD_REMOVE).epsilon
    assert 3.0 < spent <= 4.0


def test_devices_of_another_authority_are_not_believed(pilot: Pilot) -> None:
    stranger = IdentityKey.generate(SimulatedEntropy("stranger"))
    with pytest.raises(TransportError, match=r"none of 5 nodes can take part.*did not sign"):
        pilot.run(authority=stranger)
    assert not (pilot.folder / "server" / "run.json").exists()


def test_a_forged_a_copied_and_a_foreign_device_are_left_out_and_the_others_run(pilot: Pilot, tmp_path: Path) -> None:
    """One wrong node does not stop a pilot; each is named with its reason."""
    more = enrolled(tmp_path / "more", 2, Budget(4.0, 1e-5))  # signed by another authority
    copy = tmp_path / "copy"
    shutil.copytree(pilot.stores[0], copy)
    pilot.stores += [more[1], copy]
    record = pilot.run(SMALL)
    assert record["status"] == "completed"
    assert record["population"] == DEVICES - 1
    assert record["models"][0]["devices_active"] == DEVICES - 1
    left_out = [fields for name, fields in pilot.events if name == "not_joined"]
    reasons = {fields["device"]: fields["reason"] for fields in left_out}
    assert len(reasons) == 2
    assert "did not sign" in reasons["r01 on node 7"]
    assert "2 nodes have the key of this device, its store was copied: 2, 8" in reasons["r00"]


def test_ranges_that_nobody_confirmed_stop_a_pilot_before_anybody_is_asked(pilot: Pilot) -> None:
    with pytest.raises(DataError, match="ranges_confirmed"):
        pilot.run(SMALL + "\ndata.ranges_confirmed = false")
    assert pilot.events == []


def test_a_run_reads_online_keys_and_leaves_no_key_in_its_folder(pilot: Pilot) -> None:
    """The root was signed somewhere else; what the devices pin is that root, and nothing in reach can replace it."""
    pilot.run()
    keys, folder = pilot.folder / "keys" / "online", pilot.folder / "server"
    assert {path.stat().st_mode & 0o777 for path in keys.glob("*.key")} == {0o600}
    assert not list(folder.rglob("*.key"))
    assert (folder / "artifacts" / "metadata" / "1.root.json").read_bytes() == (keys / "root.json").read_bytes()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["signing"] == {"root_keys": "offline", "root_version": 1}


def test_a_run_with_root_keys_in_reach_is_refused_before_any_device_is_asked(pilot: Pilot) -> None:
    save_new_keys(pilot.folder / "keys")
    online = pilot.folder / "keys" / "online"
    shutil.copy(pilot.folder / "keys" / "root" / "root.0.key", online)
    with pytest.raises(ConfigError, match="holds root keys"):
        pilot.run()
    (online / "root.0.key").unlink()
    (online / "root.json").unlink()
    with pytest.raises(ConfigError, match="no key for role 'root'"):
        pilot.run()
    shutil.rmtree(online)
    online.mkdir()
    with pytest.raises(ConfigError, match="holds no keys") as caught:
        pilot.run()
    assert "fedinfer artifact keys" in caught.value.hint
    assert pilot.events == []


def test_a_revoked_device_is_left_out_and_the_others_run(pilot: Pilot) -> None:
    key = open_device(pilot.stores[1]).identity.public_bytes
    signer = read_authority(pilot.folder / "authority.key")
    record = pilot.run(revocations=revocations_of(signer, key, version=2))
    assert record["population"] == DEVICES - 1
    ((who, reason),) = [(f["device"], f["reason"]) for name, f in pilot.events if name == "not_joined"]
    assert who.startswith("r01 on node")
    assert "was revoked" in reason


def test_a_servers_clock_that_is_set_back_does_not_make_an_ended_list_fresh(pilot: Pilot) -> None:
    """A list ended between two starts; before the second one the clock is set back to before its end."""
    signer, now = read_authority(pilot.folder / "authority.key"), SystemClock().now()
    end = int(now.timestamp()) + 3600
    ended = sign_revocations(signer, RevocationList(1, 0, end, ()))
    later = sign_revocations(signer, RevocationList(2, 0, end + 10 * 86_400, ()))
    with pytest.raises(Misbehaviour, match="revocation list 1 ended"):
        pilot.run(revocations=ended, clock=FrozenClock(now + timedelta(days=1)))
    pilot.run(revocations=later, clock=FrozenClock(now + timedelta(hours=3)))
    with pytest.raises(Misbehaviour, match="revocation list 1 ended"):
        pilot.run(revocations=ended, clock=FrozenClock(now), name="again")
