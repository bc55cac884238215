"""What recalign depends on: licences, versions, and what pip-audit found; launch/audit.sh calls it.

    python launch/audit.py licences               # a table; exit code 1 if one does not fit
    python launch/audit.py versions               # NAME==VERSION lines
    python launch/audit.py vulnerabilities FILE   # of pip-audit's JSON; 1 if any, 3 if not known

Walks from the requirements of the installed recalign, its extras apart from T5X's included, to all
that they require.
"""

import json
import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "recalign"
EXTRAS = {"", "cache", "test"}

# A pattern for how a licence is written, and its SPDX identifier. All may be depended on by a
# program under Apache-2.0; MPL-2.0 asks only that changes to its own files stay under it.
COMPATIBLE = {
    r"apache(-2\.0| software license| license,?( version)? 2\.0| 2\.0)?": "Apache-2.0",
    r"mit([ -]license)?|the mit license.*": "MIT",
    r"mit-cmu|hpnd": "MIT-CMU",
    r"(bsd-3-clause|3-clause bsd|new bsd|modified bsd)( license)?": "BSD-3-Clause",
    r"bsd-2-clause( license)?": "BSD-2-Clause",
    r"bsd( license)?": "BSD",
    r"0bsd|mit-0|zlib|cc0-1\.0|unlicense|isc( license.*)?|afl-2\.1|bsl-1\.0": "permissive",
    r"psf-2\.0|python software foundation license|python-2\.0": "PSF-2.0",
    r"mpl-2\.0|mozilla public license 2\.0.*": "MPL-2.0",
}

# Of packages whose metadata do not tell: what the licence file in them says.
READ = {"namex": "Apache-2.0"}
UNKNOWN_ADVISORIES = 3  # exit code


def dependencies() -> list[str]:
    """The canonical names of all that is installed because of recalign, sorted."""
    seen, queue = set(), [(ROOT, extra) for extra in EXTRAS]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed, or another platform's
        for text in required:
            requirement = Requirement(text)
            environment = {**default_environment(), "extra": extra}
            if requirement.marker is None or requirement.marker.evaluate(environment):
                child = canonicalize_name(requirement.name)
                queue += [(child, wanted) for wanted in ("", *requirement.extras)]
    return sorted({name for name, _ in seen} - {ROOT})


def licence(name: str) -> str:
    """How a package's metadata name its licence; its classifiers, where they do not."""
    found = metadata.metadata(name)
    text = found.get("License-Expression") or ""
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in found.get_all("Classifier", [])
        if value.startswith("License :: ") and not value.endswith("OSI Approved")
    ]
    text = text or "; ".join(classifiers) or (found.get("License") or "").strip().split("\n")[0]
    return text or READ.get(name, "UNKNOWN")


def compatible(text: str) -> bool:
    """Whether every licence of an expression is on the list, or one of each choice."""
    parts = re.split(r"\s+AND\s+|;\s*|\s*/\s*", text.replace("(MPL 2.0)", "").strip())
    return all(
        any(_is_known(choice) for choice in re.split(r"\s+OR\s+", part.strip("() ")))
        for part in parts
    )


def _is_known(text: str) -> bool:
    return any(re.fullmatch(pattern, text.strip(), re.IGNORECASE) for pattern in COMPATIBLE)


def list_installed() -> list[tuple[str, str]]:
    """Names and versions of the dependencies that are installed."""
    versions = {}
    for name in dependencies():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # of an extra, or another platform's
            continue
    return list(versions.items())


def show_licences() -> int:
    """Prints the table; tells on stderr what does not fit."""
    print("# Licences of what recalign depends on\n")
    print("Made by `launch/audit.sh`. Each is compatible with recalign's Apache-2.0.\n")
    print("| package | version | licence |\n|---|---|---|")
    bad = []
    for name, version in list_installed():
        text = licence(name)
        print(f"| {name} | {version} | {text} |")
        if not compatible(text):
            bad.append(f"{name} {version}: {text}")
    for line in bad:
        print(f"not known to be compatible with Apache-2.0: {line}", file=sys.stderr)
    return int(bool(bad))


def show_vulnerabilities(path: str) -> int:
    """Tells what pip-audit found, and of which packages it could find out nothing."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError, KeyError) as error:
        print(f"pip-audit gave no result ({error}): nothing is known", file=sys.stderr)
        return UNKNOWN_ADVISORIES
    skipped = [each["name"] for each in found if "skip_reason" in each]
    bad = [(each, v) for each in found for v in each.get("vulns", [])]
    for each, vulnerability in bad:
        fixed = ", ".join(vulnerability["fix_versions"]) or "none"
        print(f"{each['name']} {each['version']}: {vulnerability['id']}; fixed in: {fixed}")
    print(f"{len(found) - len(skipped)} packages checked, {len(bad)} known vulnerabilities")
    if skipped:
        print(
            f"{len(skipped)} packages could not be checked, PyPI's advisories are out of reach for "
            f"them: {', '.join(skipped)}",
            file=sys.stderr,
        )
    return 1 if bad else UNKNOWN_ADVISORIES if skipped else 0


def main(command: str, *arguments: str) -> int:
    """Runs one command."""
    if command == "versions":
        print(*(f"{name}=={version}" for name, version in list_installed()), sep="\n")
        return 0
    return {"licences": show_licences, "vulnerabilities": show_vulnerabilities}[command](*arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
