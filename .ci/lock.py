"""Print constraints.txt: the version of everything that vivavoce with all its extras needs, as installed here.

Run by `./setup lock` with the interpreter of .venv; only names and versions, no paths and no addresses.
"""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = {"test", "hub", "agent"}
HEADER = "# The versions the tests pass with, for `pip install -c constraints.txt`. Written by `./setup lock`.\n"


def closure(root: str, extras: set[str]) -> dict[str, str]:
    """Every installed distribution that `root[extras]` reaches, by canonical name -> version."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        distribution = metadata.distribution(name)
        found[name] = distribution.version
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                waiting += [(child, extra) for extra in ("", *requirement.extras)]
    for name in (root, "setuptools"):  # setuptools: torch needs a range of it and the build another
        found.pop(name, None)
    return found


if __name__ == "__main__":
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(closure("vivavoce", EXTRAS).items())))
