"""What a device's owner agreed to take part in, and the check of a run against it before any of its messages is read.

A name is no proof: whoever may start runs can call an app as he likes. What keeps rows and keys on the device is that
no program of a run is ever executed; the agreement keeps out what was sent here by mistake or out of curiosity, and the
owner's policy, ledger and pinned keys decide about every message of the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Context, Message

from fedinfer.deployment.store import ANY_TASK, DeviceStore
from fedinfer.errors import ConfigError, FedInferError, Misbehaviour
from fedinfer.flower import Handler, RunFacts, refusal, reply_message, run_of_log
from fedinfer.types import DeviceId

App = Callable[[Message, Context], Message]
APP = "fedinfer"
MOST_CHARACTERS = 60
"""Of a stranger's name that are repeated in a refusal."""
UNTOLD = "its text stays in the device's own log"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whose runs, and which tasks.

    Args:
        device: name of the device.
        publishers: of app bundles whose messages are read.
        tasks: names of scenarios that may be joined; checked when a run sends its scenario, see `Host.admit`.
    """

    device: DeviceId
    publishers: frozenset[str]
    tasks: frozenset[str]

    def check(self, run: RunFacts) -> None:
        """Refuse a run that the owner did not agree to, before any of its messages is read.

        Args:
            run: what the SuperLink says of it; not proved, see the module's text.

        Raises:
            Misbehaviour: it is another app, another publisher's, or a simulation.
        """
        if not run.is_client_app:
            raise Misbehaviour("the run is an agent app, this device takes part in federated runs only")
        if run.app != APP or run.publisher not in self.publishers:
            name = f"{run.publisher}/{run.app}"[:MOST_CHARACTERS]
            raise Misbehaviour(
                f"the run belongs to the app {name!r}, which this device's owner did not agree to",
                hint="its owner lists publishers in device.json",
            )
        if run.config.get("deployment") is not True:
            raise Misbehaviour("the run does not say deployment = true, and this is a real device")


def read_agreement(store: DeviceStore) -> Agreement:
    """Read the agreement in a device's store.

    Args:
        store: of the device.

    Raises:
        ConfigError: the owner named no task.
    """
    if not store.tasks:
        raise ConfigError(
            f"{store.folder / 'device.json'} names no task, so this device takes part in nothing",
            hint=f'add "tasks": ["name of the scenario"]; "{ANY_TASK}" agrees to every task',
        )
    return Agreement(store.device, store.publishers, store.tasks)


def agreed_only(agreement: Agreement, app: App) -> Handler:
    """The app, behind the agreement. Whatever happens inside, the answer is a typed reply without a word of the rows.

    Args:
        agreement: of the owner.
        app: the installed one.
    """

    def handle(message: Message, context: Context, run: RunFacts) -> Message:
        run_of_log.set(str(context.run_id))
        _log.info("%s: %s", agreement.device, message.metadata.message_type)
        try:
            agreement.check(run)
        except Misbehaviour as error:
            _log.warning("refused: %s", error)
            return reply_message(refusal(agreement.device, error), message)
        try:
            return app(message, context)
        except Exception as error:  # its text may hold a path or a cell, and Flower would send it to the server
            _log.exception("a message of type %r failed", message.metadata.message_type)
            untold = FedInferError(f"{type(error).__name__}: {UNTOLD}")
            return reply_message(refusal(agreement.device, untold), message)

    return handle
