"""What axe-core finds in a page that is open in a browser."""

from pathlib import Path

import axe_core_python

SERIOUS = ("serious", "critical")


def violations(browser) -> list[str]:
    """What is serious: the rule, and where."""
    script = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
    browser.execute_script(script)
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']][:3]}"
        for each in found["violations"]
        if each["impact"] in SERIOUS
    ]
