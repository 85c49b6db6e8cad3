"""Keys on a PKCS #11 token: made there, used there, and nothing of them in any file. The token is SoftHSM.

Each command runs in a process of its own, as an operator runs it: the library of a token is opened once per process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedinfer.deployment.request import read_approval
from fedinfer.inference.install.tuf_channel import folder_fetch, open_channel
from fedinfer.secagg.enrolment import read_certificate
from fedinfer.secagg.revocation import read_revocations
from tests.unit.artifact.softhsm import PIN, make_tokens

pytestmark = [pytest.mark.token, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
PASSPHRASES = {"FEDINFER_PASSPHRASE": "correct horse battery", "FEDINFER_ROOT_PASSPHRASE": "another horse battery"}


class Operator:
    """Somebody with tokens at a command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = make_tokens(folder / "hsm", "root-a", "root-b", "root-c", "spare", "ca")

    def tell(self, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        ours = {"FEDINFER_PIN": PIN, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        environment = os.environ | PASSPHRASES | ours | self.variables | variables
        return subprocess.run(
            [sys.executable, "-c", "from fedinfer.cli.main import main; main()", *map(str, words)],
            env=environment, cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def ask(self, *words: object) -> dict:
        done = self.tell(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def sign(self) -> None:
        """Sign everything below root, in a new repository if there is none."""
        self.ask("artifact", "renew", "site", "--keys", "keys/online")


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_root_keys_on_three_tokens_sign_a_root_that_a_device_follows(operator: Operator) -> None:
    tokens = [word for label in ("root-a", "root-b", "root-c") for word in ("--root-token", label)]
    made = operator.ask("artifact", "keys", "keys", *tokens)
    assert made["root"] == ["root.0.token", "root.1.token", "root.2.token"]
    for path in (operator.folder / "keys" / "root").iterdir():
        assert set(json.loads(path.read_text())) == {"token", "number", "keyid", "public"}
        assert "PRIVATE" not in path.read_text()
    operator.sign()
    current = operator.folder / "keys" / "online" / "root.json"
    offline = ("--root-keys", "keys/root", "--out", "next", "--role", "timestamp")
    operator.ask("artifact", "root", current, *offline)
    operator.ask("artifact", "adopt", "site", "next/2.root.json", "--keys", "keys/online", "--new-keys", "next")
    operator.sign()
    device = operator.folder / "device"
    open_channel(current.read_bytes(), device, folder_fetch(operator.folder / "site"), datetime.now(UTC))
    assert json.loads((device / "root.json").read_text())["signed"]["version"] == 2
    schemes = {key["scheme"] for key in json.loads(current.read_text())["signed"]["keys"].values()}
    assert schemes == {"ecdsa-sha2-nistp256", "ed25519"}


READ_OUT = """
import os
import pkcs11
from pkcs11 import Attribute, ObjectClass, PKCS11Error

token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="spare")
with token.open(user_pin=os.environ["FEDINFER_PIN"]) as session:
    for key in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
        try:
            print("read out", key[Attribute.VALUE].hex())
        except PKCS11Error as error:
            print(type(error).__name__, key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE])
"""


def test_whoever_has_the_pin_as_well_reads_no_key_out_of_a_token(operator: Operator) -> None:
    operator.ask("server", "authority", "ca", "--token", "spare")
    environment = os.environ | operator.variables | {"FEDINFER_PIN": PIN}
    done = subprocess.run([sys.executable, "-c", READ_OUT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["AttributeSensitive True False"]


def test_online_keys_on_a_token_sign(operator: Operator) -> None:
    operator.ask("artifact", "keys", "keys", "--online-token", "spare")
    operator.sign()
    assert sorted(path.name for path in (operator.folder / "keys" / "online").iterdir()) == [
        "root.json", "snapshot.0.token", "targets.0.token", "timestamp.0.token",
    ]  # fmt: skip
    root = (operator.folder / "keys" / "online" / "root.json").read_bytes()
    fetch = folder_fetch(operator.folder / "site")
    assert open_channel(root, operator.folder / "device", fetch, datetime.now(UTC)).withdrawn == ()


def test_a_wrong_pin_and_a_token_that_is_not_there_are_said_in_words(operator: Operator) -> None:
    refused = operator.tell("artifact", "keys", "keys", "--online-token", "spare", FEDINFER_PIN="000000")
    assert refused.returncode == 2
    assert "token 'spare' makes no key: PinIncorrect" in refused.stderr
    absent = operator.tell("artifact", "keys", "keys", "--online-token", "nobody")
    assert (absent.returncode, "token 'nobody' makes no key" in absent.stderr) == (2, True)
    unnamed = operator.tell("artifact", "keys", "keys", "--online-token", "spare", PYKCS11LIB="")
    assert (unnamed.returncode, "PYKCS11LIB is not set" in unnamed.stderr) == (2, True)
    operator.ask("artifact", "keys", "keys", "--online-token", "spare")
    signing = operator.tell("artifact", "renew", "site", "--keys", "keys/online", FEDINFER_PIN="000000")
    assert signing.returncode == 2
    assert "does not sign: PinIncorrect" in signing.stderr
    assert PIN not in signing.stderr + refused.stderr


def test_an_authority_on_a_token_certifies_and_revokes(operator: Operator) -> None:
    """A device checks ECDSA signatures because the key that it pinned is of P-256, not because a message says so."""
    operator.ask("server", "authority", "ca", "--token", "ca")
    (operator.folder / "rows.csv").write_text("a\n1\n")
    asked = operator.ask(
        "device", "request", "--store", "store", "--out", "d.request", "--device", "d", "--data", "rows.csv",
        "--epsilon", 1, "--min-survivors", 2, "--authority", "ca/authority.pub",
    )  # fmt: skip
    operator.ask(
        "server", "approve", "d.request", "--authority", "ca", "--out", "d.approval",
        "--fingerprint", asked["fingerprint"],
    )  # fmt: skip
    assert operator.ask("device", "join", "d.approval", "--store", "store")["device"] == "d"
    operator.ask("server", "revoke", "d", "--authority", "ca")
    public = (operator.folder / "ca" / "authority.pub").read_bytes()
    assert len(public) == 65
    enrolment = read_certificate(public, read_approval((operator.folder / "d.approval").read_bytes()).certificate)
    listed = read_revocations(public, (operator.folder / "ca" / "revocations").read_bytes())
    assert listed.keys == (enrolment.public_key,)
