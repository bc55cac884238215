"""Stands in for gcloud: a cloud of queued resources in a folder, which fails when it is told to.

`$FAKE_GCLOUD/rules.json` is a list of {"match", "error", "code", "times", "although_done",
"state"}: a call whose command line holds `match` fails so often; `although_done` does the work
first, `state` puts the resource into one. Workers are folders, in which ssh runs
`launch/tpu_worker.sh` for real.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CLOUD = Path(os.environ["FAKE_GCLOUD"])
WORKERS = 2


def load(name, default):
    path = CLOUD / name
    return json.loads(path.read_text()) if path.exists() else default


def save(name, value):
    (CLOUD / name).write_text(json.dumps(value))


def fail(error, code=1):
    print(f"ERROR: (gcloud) {error}", file=sys.stderr)
    sys.exit(code)


def flags(arguments):
    return dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))


def queued_resources(verb, name, options):
    resources = load("resources.json", {})
    if verb == "create":
        if name in resources:
            fail(f"ALREADY_EXISTS: Resource {name} already exists.")
        label, _, token = options["labels"].partition("=")
        resources[name] = {"labels": {label: token}, "states": load("states.json", ["ACTIVE"])}
        shutil.rmtree(CLOUD / "workers", ignore_errors=True)
        for worker in range(WORKERS):
            (CLOUD / f"workers/{worker}").mkdir(parents=True)
    elif name not in resources:
        fail(f"NOT_FOUND: Resource {name} was not found.")
    elif verb == "delete":
        del resources[name]
        switch_off()
    elif options["format"] == "json":
        node = {"labels": resources[name]["labels"]}
        print(json.dumps({"tpu": {"nodeSpec": [{"node": node}]}}))
    else:
        states = resources[name]["states"]
        print(states[0])
        resources[name]["states"] = states[1:] or states
    save("resources.json", resources)


def switch_off():
    for pid in CLOUD.glob("workers/*/recalign/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def on_worker(worker, command):
    home = CLOUD / "workers" / str(worker)
    work = home / "recalign"
    if command.split()[-2] == "setup":  # an installation takes minutes and a network
        program = work / "venv/bin/recalign"
        program.parent.mkdir(parents=True)
        shutil.copy(CLOUD / "trainer", program)
        return 0
    environment = {**os.environ, "RECALIGN_WORKER_DIR": str(work), "WORKER": str(worker)} | {
        "RECALIGN_POLL_SECONDS": "0.1"
    }
    return subprocess.run(["bash", "-c", command], cwd=home, env=environment).returncode


def tpu_vm(verb, arguments, options):
    chosen = range(WORKERS) if options["worker"] == "all" else [int(options["worker"])]
    if verb == "scp":
        for worker in chosen:
            shutil.copy(arguments[0], CLOUD / "workers" / str(worker))
        return
    codes = [on_worker(worker, options["command"]) for worker in chosen]
    sys.exit(max(codes))


def do(arguments):
    options = flags(arguments)
    match arguments:
        case ["compute", "tpus", "queued-resources", "list", *_]:
            print("\n".join(load("resources.json", {})))
        case ["compute", "tpus", "queued-resources", verb, name, *_]:
            queued_resources(verb, name, options)
        case ["compute", "tpus", "tpu-vm", verb, *rest]:
            tpu_vm(verb, rest, options)
        case ["storage", "rsync", *_]:
            pass
        case _:
            fail(f"Invalid choice: {arguments}", 2)


def main(arguments):
    with (CLOUD / "calls.jsonl").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    rules = load("rules.json", [])
    for rule in rules:
        if rule["match"] in " ".join(arguments) and rule.get("times", 1):
            rule["times"] = rule.get("times", 1) - 1
            save("rules.json", rules)
            if rule.get("although_done"):
                do(arguments)
            if "state" in rule:
                resources = load("resources.json", {})
                for resource in resources.values():
                    resource["states"] = [rule["state"]]
                save("resources.json", resources)
            fail(rule["error"], rule.get("code", 1))
    do(arguments)


main(sys.argv[1:])
