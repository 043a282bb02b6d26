"""The wheel: what is in it, and that what it installs runs away from the clone, with and without the laboratory."""

from __future__ import annotations

import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("factflow_llm", "simulators")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says."""
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a new environment; return its folder of commands."""
    folder = tmp_path_factory.mktemp("bare")
    done = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    return python.parent


@pytest.fixture(scope="module")
def equipped(wheel: Path, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that sees, behind it, what this one has installed."""
    folder = tmp_path_factory.mktemp("equipped")
    shown = run(bare / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=folder)
    packages = Path(shown.stdout.strip())
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    mine = folder / packages.relative_to(bare.parent)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(mine)
    (mine / "behind.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return folder / "bin"


def test_wheel_holds_exactly_the_two_packages(wheel: Path) -> None:
    """Every file of the packages is in the wheel, the notebooks as data of the laboratory, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    code = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    presets = {f"simulators/presets/{path.name}" for path in (ROOT / "simulators/presets").glob("*.*")}
    notebooks = {f"simulators/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert code | presets | notebooks <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == set(PACKAGES)
    assert [name for name in names if name.endswith((".pyc", ".key", ".env"))] == []


def test_wheel_is_typed(wheel: Path) -> None:
    """Both packages carry the marker by which type checkers trust their annotations."""
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(zipfile.ZipFile(wheel).namelist())


def test_without_the_lab_extra_the_command_says_how_to_get_it(bare: Path) -> None:
    """In an environment without any dependency the command exits with 2 and names the extra."""
    done = run(bare / "factflow-llm", "--help", cwd=bare)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "factflow-llm[lab]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_without_any_dependency_production_imports(bare: Path) -> None:
    """Error classification works with no SDK installed, and a name that needs one says what is missing."""
    code = "import factflow_llm as f; print(f.classify_llm_error(TimeoutError()), f.ANTHROPIC_AVAILABLE)"
    done = run(bare / "python", "-c", code, cwd=bare)
    assert (done.stdout.split(), done.stderr) == (["retryable", "False"], "")


def test_laboratory_runs_from_the_wheel(equipped: Path) -> None:
    """Presets and the sample trace are found beside the installed code, far from the clone."""
    code = (
        "import simulators as sim, factflow_llm as f; print(sim.__file__, f.__file__);"
        "print(len(sim.sample_trace()) > 1000, 'bucket' in sim.provider_names());"
        "run = sim.simulate(sim.Scenario(sim.backlog(4, 60), 'bucket'), f.RateLimitConfig(), seed=7);"
        "print(run.summary()['goodput'] > 0)"
    )
    done = run(equipped / "python", "-c", code, cwd=equipped)
    assert done.returncode == 0, done.stderr
    simulators, factflow_llm, *truths = done.stdout.split()
    assert {Path(simulators).parents[1], Path(factflow_llm).parents[1]} == {Path(simulators).parents[1]}
    assert Path(simulators).is_relative_to(equipped.parent)
    assert truths == ["True"] * 3


@pytest.mark.slow
def test_notebooks_are_copied_from_the_wheel(equipped: Path, tmp_path: Path) -> None:
    """``factflow-llm lab`` opens copies that may be changed, far from the clone."""
    done = run(equipped / "python", "-m", "simulators", "lab", "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copies = sorted(path.name for path in (tmp_path / "factflow-notebooks").iterdir())
    assert copies == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_with_the_lab_extra_the_command_helps(equipped: Path) -> None:
    """With the laboratory's packages the same command teaches its use."""
    done = run(equipped / "python", "-m", "simulators", "--help", cwd=equipped)
    assert done.returncode == 0, done.stderr
    assert "tune" in done.stdout
