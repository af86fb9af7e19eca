"""The walls between the rooms: who may import whom, and who may touch what."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.forked import READ_ON_IMPORT

ROOT = Path(__file__).parents[1]
TYPES = {f"train_core.sources.contents.{name}" for name in ("FileSizes", "Progress", "LeftOut", "SplitName", "some")}
FORBIDDEN = {
    "train_core": {"search", "space", "optuna", "typer", "rich", "plotly"},
    "space.py": {"search", "optuna", "torch", "typer"},
}


def sources(room: str) -> list[Path]:
    path = ROOT / room
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


@cache
def imported(path: Path) -> tuple[str, ...]:
    """All that a file imports, by full names."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, node.module] if node.module else package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_run_one_way(room: str) -> None:
    for path in sources(room):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & FORBIDDEN[room], path


def test_the_space_takes_only_the_specs_from_the_trainer() -> None:
    """The specs, and the tables that they are made of; none of them needs torch."""
    ours = {name.rsplit(".", 1)[0] for name in imported(ROOT / "space.py") if name.startswith("train_core")}
    assert ours == {f"train_core.{name}" for name in ("specs", "blocks", "limits", "mix", "optimizers")}


def test_only_the_space_suggests() -> None:
    callers = {
        path.relative_to(ROOT).as_posix()
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("suggest_")
    }
    assert callers == {"space.py"}


def functions_with(name: str, file: str) -> set[str]:
    """The functions of a file that use the name."""
    return {
        function.name
        for function in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and node.id == name
    }


def test_only_promotion_reproduction_and_int8_read_the_test_split() -> None:
    """`load_test` is the only way to the test images; its callers hand it to `promote`, `reproduce` and `export`."""
    users = {
        path.relative_to(ROOT).as_posix()
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        if "load_test" in path.read_text(encoding="utf-8")
    }
    # `load_test=`, an argument of theirs; `export` measures what int8 loses of a model that has read the test images
    asked = {f"search/{name}.py" for name in ("full_runs", "promoter", "reproducer", "export", "api")}
    assert users == {"train_core/data.py", "search/session.py", *asked}
    assert functions_with("load_test", "search/session.py") == {"test_of"}
    assert {
        path.relative_to(ROOT).as_posix()
        for room in ("search", "space.py")
        for path in sources(room)
        if "test_of" in path.read_text(encoding="utf-8")
    } == {"search/session.py", "search/full_runs.py", "search/api.py"}
    assert functions_with("test_of", "search/api.py") == {"_test_split"}
    assert functions_with("test_of", "search/full_runs.py") == {"full_trainer", "reproduce"}
    readers = {
        path.relative_to(ROOT).as_posix()
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        if any(name.startswith("train_core.sources") and name not in TYPES for name in imported(path))
        and path.parent.name != "sources"
    }
    assert readers == {"train_core/data.py", "train_core/datasets.py"}  # what reads the sources sees their test images
    assert {
        path.relative_to(ROOT).as_posix()
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        if ".read(cache" in path.read_text(encoding="utf-8")
    } == {"train_core/sources/__init__.py"}  # a named data set's record


def test_all_splits_go_to_the_census_alone_which_trains_nothing() -> None:
    """`search data` counts test images and looks for copies of them: on purpose, and nothing else does."""
    users = {
        path.relative_to(ROOT).as_posix(): path
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        if "load_all_splits" in path.read_text(encoding="utf-8")
    }
    assert set(users) == {"train_core/data.py", "train_core/census.py"}
    # No network, no step and no evaluation: it has nothing to train or to score with.
    rooms = {name.split(".")[1] for name in imported(ROOT / "train_core/census.py") if name.startswith("train_core.")}
    assert rooms == {"data", "duplicates", "reading", "sheet", "sources"}
    assert {
        path.relative_to(ROOT).as_posix()
        for room in ("search", "space.py")
        for path in sources(room)
        if "take_census" in path.read_text(encoding="utf-8")
    } == {"search/session.py"}
    assert functions_with("take_census", "search/session.py") == {"census_of"}
    assert functions_with("census_of", "search/api.py") == {"look"}
    assert {
        path.relative_to(ROOT).as_posix()
        for path in sources("search")
        if "census_of" in path.read_text(encoding="utf-8")
    } == {"search/session.py", "search/api.py"}


def test_the_loop_prints_nothing() -> None:
    for path in sources("train_core"):
        calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path


def test_no_test_imports_another() -> None:
    """What tests share is in `tests/support`, which takes nothing from tests and benchmarks."""
    for path in [*sources("tests"), *sources("benchmarks")]:
        assert not [name for name in imported(path) if name.startswith("tests.") and ".test_" in name], path
    for path in sources("tests/support"):
        ours = [name for name in imported(path) if name.split(".")[0] in {"tests", "benchmarks"}]
        assert all(name.startswith("tests.support.") for name in ours), path


LAYERS = {
    "foundations": "errors streams version completion interrupt storage run_folder optuna_access trials ladder "
    "published scores spec targets data_shape formatting citation uncertainty recipe_words markup front",
    "study": "checkpoints between forecast heartbeat retries pruner sampling drawing starts listing identity study "
    "trainer plan session night timing",
    "full runs": "loggers long_run promotions promoter reproducer fidelity learning mistakes full_front",
    "export": "quantisation card export predict",
    "view": "terminal bars answers trial_lines colours results cautions records rows inspection elsewhere comparison "
    "groups plot tables mistakes_view published_view figures parameter_charts mistake_charts charts diagram "
    "first_screen trials_table "
    "mistakes_section front_section report live_report notes dashboard watch console data_view",
    "entry": "removal archive ray_workers opening searching api full_runs overnight notebook commands cli "
    "__init__ __main__",
}
"""The modules of search/, the lowest layer first: each imports from its own layer and those below alone."""


def imported_rooms(path: Path) -> set[str]:
    """The modules of search/ that a file of it imports; a package there counts as one module."""
    names = [name.split(".") for name in imported(path) if name.split(".")[0] == "search"]
    return {parts[1] for parts in names if len(parts) > 1 and parts[1] in modules_of_search()}


@cache
def modules_of_search() -> dict[str, list[Path]]:
    """The files of each module of search/."""
    found: dict[str, list[Path]] = {}
    for path in sources("search"):
        found.setdefault(path.relative_to(ROOT / "search").parts[0].removesuffix(".py"), []).append(path)
    return found


def test_inside_search_imports_run_down_the_layers() -> None:
    level = {module: i for i, modules in enumerate(LAYERS.values()) for module in modules.split()}
    files = modules_of_search()
    assert set(level) == set(files), "name each module of search/ in LAYERS"
    upwards = {
        f"{module} -> {other}"
        for module, paths in files.items()
        for path in paths
        for other in imported_rooms(path)
        if level[other] > level[module] and module != "__init__"  # which offers the notebook, when it is asked for
    }
    assert not upwards


def test_no_imports_go_round_in_a_circle() -> None:
    imports = {
        module: set().union(*(imported_rooms(path) for path in paths)) - {module}
        for module, paths in modules_of_search().items()
    }
    imports["__init__"] = set()
    while free := {module for module, others in imports.items() if not others & imports.keys()}:
        imports = {module: others for module, others in imports.items() if module not in free}
    assert not imports, f"each of these imports another of them: {sorted(imports)}"


def test_one_module_touches_what_optuna_calls_private() -> None:
    private = {"_storage", "_trial_id", "_study_id"}
    users = {
        path.name
        for path in sources("search")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in private and not _is_own(node)
    }
    assert users == {"optuna_access.py"}


def _is_own(node: ast.Attribute) -> bool:
    """Whether it is an attribute of `self`, and so not Optuna's."""
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def test_few_functions_take_more_than_eight_parameters() -> None:
    """The command line's own alone: their parameters are the flags."""
    over = {
        f"{path.relative_to(ROOT).as_posix()}:{node.name}"
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) > 8
    }
    assert {each.split(":")[0] for each in over} <= {
        f"search/commands/{name}.py" for name in ("training", "beforehand")
    }


def test_what_is_read_from_the_environment_on_import_is_known_to_the_tests() -> None:
    """Forked processes have imported everything before they have their environment."""
    read = {
        node.args[0].value
        for room in ("search", "train_core", "space.py")
        for path in sources(room)
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"os.environ.get", "os.getenv"}
        if isinstance(node.args[0], ast.Constant)
    }
    assert read == READ_ON_IMPORT
