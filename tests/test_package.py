"""The house: which imports may go where, a test for every file, and a package that holds all of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ["kernels", "streaming", "speech", "server", "recipes"]
MAY_IMPORT = {
    "kernels": set[str](),
    "streaming": set[str](),
    "speech": {"kernels", "streaming"},
    "server": {"kernels", "streaming", "speech"},
    "recipes": {"kernels", "streaming", "speech", "server"},
}
THIRD_PARTY = {"kernels": {"torch", "triton"}, "streaming": {"torch", "safetensors"}}
# of a folder as a whole, not of one file
WHOLE = {f"server/test_{name}.py" for name in ("equal", "faults", "hour", "page", "random")}
SMALL = 15  # lines; a file shorter than this needs no test of its own
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows which files are tracked")


def sources() -> list[Path]:
    """Every source file of the packages, as a path from the root."""
    return [p.relative_to(ROOT) for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """The absolute name of every module that a file imports, wherever in the file."""
    package = ("vivavoce", *path.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def tracked() -> list[Path]:
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_run_one_way(path: Path) -> None:
    layer = path.parts[0]
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in FOLDERS, f"{path} imports {name}: write vivavoce.{name}"
        if top == "vivavoce":
            assert rest.split(".")[0] in MAY_IMPORT[layer] | {layer}, f"{path} ({layer}) imports {name}"
        elif layer in THIRD_PARTY and top not in sys.stdlib_module_names:
            assert top in THIRD_PARTY[layer], f"{path}: {layer} needs nothing but {THIRD_PARTY[layer]}, not {name}"


def test_the_import_reader_sees_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "speech" / "asr").mkdir(parents=True)
    (tmp_path / "speech/asr/x.py").write_text(
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\n"
        "def h():\n    from vivavoce.server import i\n")
    assert list(imports(Path("speech/asr/x.py"))) == [
        "a.b", "c.d", "vivavoce.speech.asr.e", "vivavoce.speech.f.g", "vivavoce.server.i"]


def test_every_source_file_has_a_test_of_its_name() -> None:
    large = [p for p in sources() if p.name != "__init__.py" and len((ROOT / p).read_text().splitlines()) >= SMALL]
    missing = [str(p) for p in large if not (ROOT / "tests" / p.parent / f"test_{p.name}").is_file()]
    assert not missing, f"without a test file: {', '.join(missing)}"


def test_every_test_file_has_a_source_of_its_name() -> None:
    tests = ROOT / "tests"
    mirrored = [p.relative_to(tests) for folder in FOLDERS for p in (tests / folder).rglob("test_*.py")]
    orphans = [str(p) for p in mirrored
               if str(p) not in WHOLE and not (ROOT / p.parent / p.name.removeprefix("test_")).is_file()]
    assert not orphans, f"testing nothing: {', '.join(orphans)}"


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(("vivavoce", *p.parts[:-1])) for p in sources() if p.name == "__init__.py"}
    assert sorted(listed) == sorted(there)
    assert {p.parent for p in sources()} == {p.parent for p in sources() if p.name == "__init__.py"}


@needs_git
def test_no_tracked_file_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.~/-])/(?:home|root|work|Users|mnt|media)/[\w.-]+|\.\./shared")
    found = [f"{path.relative_to(ROOT)}: {match.group()}" for path in tracked()
             if b"\0" not in (content := path.read_bytes())
             for match in place.finditer(content.decode()) if path != Path(__file__)]
    assert not found


def test_constraints_pin_names_and_versions_and_nothing_else() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.+]*", line) for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [r for rs in [project["dependencies"], *project["optional-dependencies"].values()] for r in rs]
    names = {re.split(r"[^\w-]", r)[0].lower().replace("_", "-") for r in wanted} - {"setuptools"}
    assert names <= pinned, f"run ./setup lock: {names - pinned}"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, so that building leaves nothing behind in the checkout."""
    copy = tmp_path_factory.mktemp("tree")
    for path in [*FOLDERS, "pyproject.toml", "README.md", "LICENSE"]:
        subprocess.run(["cp", "-R", str(ROOT / path), str(copy / path)], check=True)
    return copy


def build(tree: Path, out: Path, kind: str) -> tuple[Path, Path]:
    """A wheel built by setuptools' own hooks, offline: the folder it unpacks to, as site-packages would, and itself."""
    settings = {"strict": '{"editable_mode": "strict"}'}.get(kind, "{}")
    hook = "build_wheel" if kind == "normal" else "build_editable"
    script = f"from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}, {settings}))"
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", script], cwd=tree, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site", wheel


@pytest.mark.parametrize("kind", ["normal", "editable", "strict"])
def test_every_kind_of_install_imports(kind: str, tree: Path, tmp_path: Path) -> None:
    site, _ = build(tree, tmp_path, kind)
    code = (f"import site; site.addsitedir({str(site)!r}); import vivavoce, vivavoce.streaming.errors as a, "
            "vivavoce.speech.errors as b, vivavoce.server; print(a.__file__, b.__file__)")
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    home = {"normal": site, "editable": tree, "strict": tree / "build"}[kind]
    assert all(Path(name).is_relative_to(home) for name in run.stdout.split()), run.stdout


def test_the_wheel_holds_every_source_the_types_marker_and_the_models(tree: Path, tmp_path: Path) -> None:
    made = [Path("speech/models/made-up") / name
            for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")]
    (tree / made[0].parent).mkdir(exist_ok=True)
    for path in made:
        (tree / path).write_text("{}")
    _, wheel = build(tree, tmp_path, "normal")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"vivavoce/{p}" for p in sources()} | {f"vivavoce/{folder}/py.typed" for folder in FOLDERS}
    wanted |= {f"vivavoce/{path}" for path in made}
    for folder in (ROOT / "speech" / "models").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            wanted |= {f"vivavoce/{p.relative_to(ROOT)}" for p in folder.rglob("*") if p.is_file()}
    assert wanted <= names, f"left out: {sorted(wanted - names)}"
    assert "vivavoce/__init__.py" not in names
    assert {re.sub(r"-.*\.", "-*.", name.split("/")[0]) for name in names} == {"vivavoce", "vivavoce-*.dist-info"}
    assert wheel.stat().st_size < 45e6
