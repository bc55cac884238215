#!/usr/bin/env python3
r"""Runs a recipe on a Cloud TPU VM or slice and deletes the machine afterwards.

    launch/tpu_vm.py run --name beauty --zone ZONE --accelerator_type v5litepod-8 --spot \
        --bucket BUCKET --domain beauty -- --gin_file=beauty.gin
    launch/tpu_vm.py list --zone ZONE
    launch/tpu_vm.py delete --name beauty --zone ZONE

`run` asks for the machine as a queued resource, installs this tree on every worker, starts
`recalign train --multiprocess`, follows the log, begins again on a new machine after a preemption,
deletes the machine, whatever happens, Ctrl-C included, and fetches the metrics. Checkpoints are in
the bucket, so the same command later goes on where the run stopped. `--dry_run` prints all commands
and runs none, and tells which files would be sent: those that git tracks.

Needs Python's standard library and `gcloud` alone. launch/README.md tells the costs.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LABEL = "recalign"
AGAIN = 75  # EX_TEMPFAIL: the trainer was told to stop and wants to be run again
STILL_RUNNING = 3
WORKER = "recalign-tree/launch/tpu_worker.sh"
POLL_SECONDS = 30
SILENT_CONNECTIONS = 20  # then the machine is given up, which would cost money for nothing

# What gcloud says when the same call may succeed a little later.
TRANSIENT = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|INTERNAL\b|H(TTP|ttp)Error 5\d\d"
    r"|timed? ?out|[Cc]onnection (reset|refused|closed|aborted)|[Cc]ould not resolve|TLS|SSLError"
)
QUOTA = re.compile(r"quota", re.IGNORECASE)
EXISTS = re.compile(r"ALREADY_EXISTS|already exists", re.IGNORECASE)
MISSING = re.compile(r"NOT_FOUND|was not found|does not exist", re.IGNORECASE)

RUNTIMES = {  # https://cloud.google.com/tpu/docs/runtimes
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
OLDER_RUNTIME = "tpu-ubuntu2204-base"


class LaunchError(Exception):
    """What could not be done, in a sentence for the user."""


class GcloudError(LaunchError):
    """A call of gcloud ended with an error, whose text this is."""


class SignalError(Exception):
    """A signal asked us to end."""


def say(text: str) -> None:
    """Tells the user; standard output belongs to the log of the run."""
    print(f"tpu_vm: {text}", file=sys.stderr, flush=True)


class Signals:
    """Turns signals into an exception, except where something must not be cut off."""

    def __init__(self):
        self._shielded = False
        self._caught: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        first, self._caught = self._caught is None, number
        if first and not self._shielded:
            raise SignalError(signal.Signals(number).name)
        say("one moment: what is being done now must be finished, or a machine may run on unseen")

    @contextlib.contextmanager
    def shield(self, then_raise: bool = True) -> Iterator[None]:
        """Signals wait until the end of the block; then they raise, or are done with."""
        before, self._shielded = self._caught, True
        try:
            yield
        finally:
            self._shielded = False
        if then_raise and self._caught and not before:
            raise SignalError(signal.Signals(self._caught).name)


class Gcloud:
    """Calls gcloud, again where that is worth it; under `dry_run` it prints and answers well."""

    def __init__(self, project: str | None, dry_run: bool, sleep: Callable[[float], None]):
        self._project = [f"--project={project}"] if project else []
        self.dry_run = dry_run
        self.sleep = sleep

    def command(self, *arguments: str) -> list[str]:
        """The whole command line; flags of gcloud itself stand at the end."""
        return ["gcloud", *arguments, *self._project]

    def __call__(
        self, *arguments: str, attempts: int = 6, always_again: bool = False, answer: str = ""
    ) -> str:
        """What gcloud prints.

        Args:
          *arguments: of gcloud.
          attempts: tries in all, if the error is one that passes.
          always_again: every error may pass (ssh right after the start of a machine).
          answer: the answer under `dry_run`.
        """
        command = self.command(*arguments)
        if self.dry_run:
            print(shlex.join(command))
            return answer
        for attempt in range(1, attempts + 1):
            code, out, error = self._run(command)
            if not code:
                return out
            if attempt == attempts or not (always_again or TRANSIENT.search(error)):
                break
            seconds = min(5 * 2 ** (attempt - 1), 120)
            say(f"gcloud failed, again in {seconds} s: {error.strip()}")
            self.sleep(seconds)
        raise GcloudError(f"`{shlex.join(command)}` failed: {error.strip()}")

    @staticmethod
    def _run(command: Sequence[str]) -> tuple[int, str, str]:
        # In a session of its own: Ctrl-C is for us to handle, not for a deletion in flight.
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise LaunchError("gcloud is not on the PATH: install the Google Cloud CLI") from error
        try:
            out, error = process.communicate()
        except SignalError:
            process.kill()
            process.wait()
            raise
        return process.returncode, out, error

    def lines(self, *arguments: str, answer: bytes) -> Iterator[bytes]:
        """What gcloud prints, line by line as it comes, however it ends."""
        command = self.command(*arguments)
        if self.dry_run:
            print(shlex.join(command))
            yield answer
            return
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                yield from process.stdout
            finally:
                process.kill()


class Machine:
    """A queued resource with one TPU VM or slice of the same name.

    It carries a token of ours as a label. Nothing is deleted that does not.
    """

    def __init__(self, gcloud: Gcloud, signals: Signals, options: argparse.Namespace):
        self._gcloud, self._signals, self._options = gcloud, signals, options
        self._where = f"--zone={options.zone}"
        self._token = uuid.uuid4().hex[:12] if not gcloud.dry_run else "TOKEN"
        self._may_exist = False

    @property
    def wanted(self) -> bool:
        """Whether there is none yet, or none any more."""
        return not self._may_exist

    def create(self) -> None:
        """Asks for the machine.

        Raises:
          LaunchError: for want of quota, or because the name is taken.
        """
        options = self._options
        flags = [
            f"--node-id={options.name}",
            f"--accelerator-type={options.accelerator_type}",
            f"--runtime-version={options.runtime_version or runtime(options.accelerator_type)}",
            f"--labels={LABEL}={self._token}",
            # The worker goes to the bucket as the machine's service account.
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
        ]
        flags += ["--spot"] if options.spot else []
        flags += [f"--valid-until-duration={options.valid_until}"] if options.valid_until else []
        with self._signals.shield():
            self._may_exist = True
            try:
                self._resource("create", *flags)
            except GcloudError as error:
                if EXISTS.search(str(error)) and self._owner() != self._token:
                    self._may_exist = False
                    raise LaunchError(
                        f"there is a queued resource named {options.name} already, which is left "
                        "alone: take another --name, or delete it first"
                    ) from error
                if QUOTA.search(str(error)):
                    self._may_exist = False
                    raise LaunchError(
                        f"no quota for {options.accelerator_type} in {options.zone}: ask for it, "
                        f"or take another zone or size (launch/README.md). {error}"
                    ) from error
                if not EXISTS.search(str(error)):
                    raise

    def state(self) -> str:
        """The state of the queued resource, "" where there is none."""
        try:
            return self._resource(
                "describe", "--format=value(state.state)", answer="ACTIVE"
            ).strip()
        except GcloudError as error:
            if MISSING.search(str(error)):
                return ""
            raise

    def wait_until_active(self) -> bool:
        """Waits for the machine; False if it was lost before it came."""
        last = None
        while (state := self.state()) != "ACTIVE":
            if state == "FAILED":
                raise LaunchError(
                    f"the request for {self._options.name} failed; "
                    f"`{shlex.join(self._command('describe'))}` tells why"
                )
            if state in ("", "SUSPENDING", "SUSPENDED", "DELETING"):
                return False
            if state != last:
                say(f"{self._options.name} is {state}")
            last = state
            self._gcloud.sleep(POLL_SECONDS)
        say(f"{self._options.name} is ACTIVE and costs money from now on")
        return True

    def copy(self, file: Path) -> None:
        """Copies a file into the home folder of every worker."""
        self._vm("scp", str(file), f"{self._options.name}:", "--worker=all")

    def shell(self, *words: str) -> None:
        """Runs a command, which must stand being run twice, on every worker."""
        self._vm("ssh", self._options.name, "--worker=all", f"--command={shlex.join(words)}")

    def follow(self, byte: int) -> Iterator[bytes]:
        """The lines of the first worker's log from a byte on."""
        words = shlex.join([WORKER, "follow", str(byte)])
        yield from self._gcloud.lines(
            *("compute", "tpus", "tpu-vm", "ssh", self._options.name, self._where),
            *("--worker=0", f"--command={words}", "--quiet"),
            answer=b"recalign-exit 0\n",
        )

    def delete(self) -> None:
        """Deletes what `create` made, and makes sure.

        Raises:
          LaunchError: it may still be there; the message says how to get rid of it.
        """
        if not self._may_exist:
            return
        with self._signals.shield(then_raise=False):
            try:
                self._delete()
            except (LaunchError, OSError) as error:
                raise StillRunningError(
                    self._options.name, self._command("delete"), error
                ) from error
        self._may_exist = False

    def _delete(self) -> None:
        for look in range(2):
            owner = self._owner()
            if owner is not None:
                break
            # A request that failed on its way back may show itself a little later.
            if not self._gcloud.dry_run and look == 0:
                self._gcloud.sleep(POLL_SECONDS)
        else:
            return
        if owner != self._token:
            say(f"{self._options.name} was made by somebody else, and is left alone")
            return
        say(f"deleting {self._options.name}")
        try:
            self._resource("delete", "--force", "--quiet")
        except GcloudError as error:
            if not MISSING.search(str(error)):
                raise
        if not self._gcloud.dry_run and self._owner() == self._token:
            raise LaunchError("it was deleted without an error, and is still there")

    def _owner(self) -> str | None:
        """The token on the machine, "" if it has none; None if there is no machine."""
        return owner(
            lambda: self._resource("describe", "--format=json", answer=_describe(self._token))
        )

    def _command(self, verb: str) -> list[str]:
        extra = ["--force", "--quiet"] if verb == "delete" else []
        path = ("compute", "tpus", "queued-resources", verb)
        return self._gcloud.command(*path, self._options.name, self._where, *extra)

    def _resource(self, verb: str, *flags: str, answer: str = "") -> str:
        path = ("compute", "tpus", "queued-resources", verb)
        return self._gcloud(*path, self._options.name, self._where, *flags, answer=answer)

    def _vm(self, verb: str, *arguments: str) -> None:
        path = ("compute", "tpus", "tpu-vm", verb)
        # Quiet: the first connection ever asks for a new key.
        flags = (self._where, "--quiet")
        self._gcloud(*path, *arguments, *flags, attempts=4, always_again=True)


class StillRunningError(LaunchError):
    """A machine could not be deleted."""

    def __init__(self, name: str, command: Sequence[str], cause: Exception):
        super().__init__(
            f"\n*** {name} COULD NOT BE DELETED AND MAY STILL COST MONEY ***\n"
            f"*** run this until it succeeds:\n    {shlex.join(command)}\n({cause})"
        )


def owner(describe: Callable[[], str]) -> str | None:
    """The token on a queued resource, "" if it has none; None if there is no such resource."""
    try:
        found = json.loads(describe())
    except GcloudError as error:
        if MISSING.search(str(error)):
            return None
        raise
    nodes = found.get("tpu", {}).get("nodeSpec", [])
    return nodes[0].get("node", {}).get("labels", {}).get(LABEL, "") if nodes else ""


def _describe(token: str) -> str:
    return json.dumps({"tpu": {"nodeSpec": [{"node": {"labels": {LABEL: token}}}]}})


def runtime(accelerator_type: str) -> str:
    """The image for JAX on an accelerator type such as v5litepod-8."""
    return RUNTIMES.get(accelerator_type.split("-")[0], OLDER_RUNTIME)


def list_files(*flags: str) -> list[str]:
    """Files of this clone by their names in it, as `git ls-files` tells them.

    Raises:
      LaunchError: this is no clone, or git is not installed.
    """
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *flags]
    try:
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LaunchError(
            f"which files go to the workers is asked of git, which failed in {ROOT}: "
            f"{getattr(error, 'stderr', '') or error}"
        ) from error
    return [name for name in names.split("\0") if (ROOT / name).is_file()]


def pack_tree(archive: Path) -> None:
    """Packs what git tracks, as it is now, and nothing else: no run, no data, no key."""
    with tarfile.open(archive, "w:gz") as tar:
        for name in list_files("--cached"):
            tar.add(ROOT / name, f"recalign-tree/{name}", recursive=False)


def tell_tree(whole: bool) -> None:
    """Tells which files go to the workers, all by name if `whole`, and which will be missed."""
    names = list_files("--cached")
    say(f"{len(names)} files go to the workers{':' if whole else ''}")
    for name in names if whole else ():
        say(f"  {name}")
    if new := list_files("--others", "--exclude-standard"):
        say(f"these do not, since git does not track them (`git add` them): {', '.join(new)}")


def upload_domains(gcloud: Gcloud, options: argparse.Namespace) -> None:
    """Puts prepared domains into the bucket, before anything costs money."""
    for name in options.domain:
        folder = Path(options.data_dir).expanduser() / name
        if not gcloud.dry_run and not (folder / "statistics.json").exists():
            raise LaunchError(
                f"there is no prepared domain in {folder}: run `recalign prepare` first"
            )
        bucket = f"gs://{options.bucket}/domains/{name}"
        gcloud("storage", "rsync", "--recursive", str(folder), bucket)


def install(gcloud: Gcloud, machine: Machine, options: argparse.Namespace) -> None:
    """Installs this tree on every worker."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path("" if gcloud.dry_run else folder) / "recalign-tree.tar.gz"
        if not gcloud.dry_run:
            pack_tree(archive)
        machine.copy(archive)
    machine.shell("tar", "xzf", "recalign-tree.tar.gz")
    machine.shell(WORKER, "setup")


def follow(gcloud: Gcloud, machine: Machine) -> int | None:
    """Prints the log to its end, over lost connections; the exit code, or None if all is lost."""
    byte, silent = 0, 0
    while silent < SILENT_CONNECTIONS:
        silent += 1
        for line in machine.follow(byte):
            if found := re.fullmatch(rb"recalign-exit (\d+|lost)\n", line):
                return int(found[1]) if found[1] != b"lost" else AGAIN
            byte, silent = byte + len(line), 0
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        if machine.state() != "ACTIVE":
            return None
        say("the connection is lost, the machine is not: connecting again")
        gcloud.sleep(POLL_SECONDS)
    raise LaunchError(f"{SILENT_CONNECTIONS} connections one after the other brought nothing")


def attempt(
    gcloud: Gcloud, machine: Machine, options: argparse.Namespace, number: int
) -> int | None:
    """Runs the recipe until it ends; its exit code, or None if the machine was taken away."""
    code = None
    try:
        if machine.wanted:
            machine.create()
            if not machine.wait_until_active():
                machine.delete()
                return None
            install(gcloud, machine, options)
        recipe = ("train", "--multiprocess", *options.recipe)
        machine.shell(WORKER, "start", str(number), options.bucket, options.name, *recipe)
        code = follow(gcloud, machine)
    except GcloudError:
        if machine.state() == "ACTIVE":
            raise
    if code is None:
        say(f"{options.name} was taken away; its checkpoints are in the bucket")
        machine.delete()
    return code


def run(gcloud: Gcloud, signals: Signals, options: argparse.Namespace) -> int:
    """The whole job; its exit code is that of the training."""
    tell_tree(whole=gcloud.dry_run)
    upload_domains(gcloud, options)
    machine = Machine(gcloud, signals, options)
    try:
        for number in range(1, options.attempts + 1):
            code = attempt(gcloud, machine, options, number)
            if code not in (None, AGAIN):
                break
        else:
            raise LaunchError(f"given up after {options.attempts} attempts")
    finally:
        try:
            machine.delete()
        except SignalError:  # in the moment before it is shielded
            machine.delete()
            raise
    fetch(gcloud, options)
    return code


def fetch(gcloud: Gcloud, options: argparse.Namespace) -> None:
    """Brings what the run wrote here, all but its checkpoints."""
    bucket, here = f"gs://{options.bucket}/runs/{options.name}", f"runs/{options.name}"
    if not gcloud.dry_run:
        Path(here).mkdir(parents=True, exist_ok=True)
    try:
        gcloud("storage", "rsync", "--recursive", "--exclude=^checkpoints/.*", bucket, here)
    except GcloudError as error:
        say(f"nothing was fetched. {error}")


def delete(gcloud: Gcloud, options: argparse.Namespace) -> int:
    """Deletes a machine that an earlier `run` has left behind, and no other."""
    path = ("compute", "tpus", "queued-resources")
    where = (options.name, f"--zone={options.zone}")
    token = owner(lambda: gcloud(*path, "describe", *where, "--format=json", answer=_describe("T")))
    if token is None:
        say(f"there is no queued resource {options.name} in {options.zone}")
    elif not token:
        raise LaunchError(f"{options.name} was not made by tpu_vm.py, and is left alone")
    else:
        gcloud(*path, "delete", *where, "--force", "--quiet")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; what follows a lone `--` is for `recalign train`."""
    arguments, recipe = _split(list(arguments))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "list", "delete"):
        command = commands.add_parser(name)
        command.add_argument("--zone", required=True)
        command.add_argument("--project", help="gcloud's own default otherwise")
        command.add_argument("--dry_run", action="store_true", help="print commands, run none")
        if name != "list":
            command.add_argument("--name", required=True, help="of the machine and of the run")
        if name != "run":
            continue
        command.add_argument("--accelerator_type", required=True, help="such as v5litepod-8")
        command.add_argument("--bucket", required=True, help="without gs://; keeps the run")
        command.add_argument("--runtime_version", help="by default that of JAX for the type")
        command.add_argument("--spot", action="store_true", help="cheaper, may be taken away")
        command.add_argument("--valid_until", metavar="6h", help="wait no longer for the machine")
        command.add_argument("--attempts", type=int, default=20, help="machines and restarts")
        command.add_argument("--domain", action="append", default=[], help="prepared, to upload")
        command.add_argument(
            "--data_dir", default=os.environ.get("RECALIGN_DATA_DIR", "~/.cache/recalign")
        )
    options = parser.parse_args(arguments)
    if options.command == "run" and not recipe:
        parser.error("say what to train after --, such as: -- --gin_file=beauty.gin")
    options.recipe = recipe
    return options


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def main(arguments: Sequence[str], sleep: Callable[[float], None] = time.sleep) -> int:
    """Runs a command; exit code 3 says that a machine may still be running."""
    options = parse(arguments)
    signals = Signals()
    gcloud = Gcloud(options.project, options.dry_run, sleep)
    try:
        if options.command == "run":
            return run(gcloud, signals, options)
        if options.command == "delete":
            return delete(gcloud, options)
        path = ("compute", "tpus", "queued-resources", "list")
        print(gcloud(*path, f"--zone={options.zone}"), end="")
        return 0
    except StillRunningError as error:
        say(str(error))
        return STILL_RUNNING
    except SignalError as error:
        say(f"ended by {error}; no machine of ours is left")
        return 130
    except LaunchError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
