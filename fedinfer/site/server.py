"""The server's folder of a site: what lies where, and what a run of the site is told.

site.toml          what somebody decided, see `plan`
ca.crt server.pem server.key   TLS
authority.pub revocations card nodes/   of the enrolment authority: public
keys/ keys.pass    online signing keys and what opens them
viewer.token       who has it may look at the console
app/               what Flower calls the app of a run
superlink.sqlite flower/ run/ released in run/   written by Flower and by runs
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedinfer import __version__
from fedinfer.deployment import PUBLIC, REVOCATIONS
from fedinfer.errors import ConfigError
from fedinfer.site.plan import PLAN, SitePlan, read_plan
from fedinfer.site.templates import APP_FILES, app_toml

SERVER, OFFLINE = "server", "offline"
SCENARIO = "scenario.toml"
VIEWER_TOKEN = "viewer.token"  # noqa: S105 - a file's name


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """A site as its server sees it.

    Args:
        folder: absolute.
        plan: its `site.toml`.
    """

    folder: Path
    plan: SitePlan

    @property
    def lock(self) -> Path:
        """Held by the program that keeps the SuperLink running."""
        return self.folder / "server.lock"

    @property
    def log(self) -> Path:
        """Log of a server that runs in the background."""
        return self.folder / "server.log"

    @property
    def home(self) -> Path:
        """FLWR_HOME."""
        return self.folder / "flower"

    @property
    def run(self) -> Path:
        """Run folder, the same for every run."""
        return self.folder / "run"

    @property
    def tls_authority(self) -> Path:
        """Certificate of the authority of the server's certificate."""
        return self.folder / "ca.crt"

    @property
    def scenario(self) -> str:
        """Built-in name, or the site's own file."""
        own = self.folder / SCENARIO
        return str(own) if own.exists() else self.plan.run.scenario

    @property
    def public_data(self) -> Path | None:
        """Table that the server holds."""
        name = self.plan.run.public_data
        return self.folder / f"public{Path(name).suffix}" if name else None

    def run_config(self, *, resume: bool = True, orders: bool = False) -> dict[str, str | int | bool]:
        """What a run is told.

        Args:
            resume: go on with the run that did not end.
            orders: train nothing, carry out what operators started.
        """
        return {
            "scenario": self.scenario,
            "overrides": ";".join(self.plan.run.overrides),
            "run-dir": str(self.run),
            "deployment": True,
            "authority": str(self.folder / PUBLIC),
            "revocations": str(self.folder / REVOCATIONS),
            "keys": str(self.folder / "keys"),
            "passphrase-file": str(self.folder / "keys.pass"),
            "public-data": str(self.public_data or ""),
            "min-devices": self.plan.run.min_devices,
            "resume": resume,
            "orders": orders,
        }

    def write_app(self) -> Path:
        """Write the app of a run anew, for the fedinfer that is installed and for where the folder lies now.

        Returns:
            Its folder.
        """
        app = self.folder / "app"
        app.mkdir(exist_ok=True)
        (app / "pyproject.toml").write_text(app_toml(__version__, self.run_config()))
        for name, text in APP_FILES.items():
            (app / name).write_text(text)
        return app


def open_server(path: Path) -> ServerFolder:
    """The server of a site.

    Args:
        path: folder of the site, or of its server alone.

    Raises:
        ConfigError: it is neither.
    """
    folder = path / SERVER if (path / SERVER / PLAN).exists() else path
    if not (folder / "server.pem").exists():
        raise ConfigError(f"{path} is no site", hint="fedinfer server init DIR makes one")
    return ServerFolder(folder.resolve(), read_plan(folder / PLAN))
