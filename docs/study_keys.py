"""Makes the page of all keys of a study file, from what checks study files: `python docs/study_keys.py` writes it."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.published import Published, Row
from search.spec import PhasesSpec, PromoteSpec, PrunerSpec, StudySpec
from space import GROUPS, Space
from train_core.optimizers import OPTIMIZERS
from train_core.specs import AugmentSpec, Frozen, ResNetSpec, TrainSpec

PAGE = Path(__file__).with_name("study-files.md")

HEAD = """\
<!-- Made by `python docs/study_keys.py` from the code that reads study files: change it there. -->

# Study files

A study file is a TOML file that says what to search: data, budget, effort, space and the networks to try first. Those
that ship with the tool are in `studies/`; a file of your own is given by its path:

    search run my-study.toml
    search count my-study.toml

A key that is left out has its default. Flags win over the file: `--budget`, `--trials` and the like are for one run,
the file is for what stays (`--images` is `short_run_images`). An unknown key, a value out of range or a file that is
not TOML is refused in one line that names it and says which key was probably meant. A file is read as data; nothing in
it is executed.

The smallest study file has two lines, since two keys have no default:

```toml
data = "digits"
budget = 20_000
```

Budgets and limits on multiply-adds can be texts, too, as on the command line: `"5M"`, `"200k"`, `"5e6"`.

What a run was made with stands in its folder, in `study.toml`, with every key. When a run is continued, `trials`,
`[promote]` and the baselines may have changed, and the data may lie elsewhere if they are the same images; any other
difference is refused by the key's name, since the trials could not be compared. (`promote.epochs` is held, too, where
short runs train on a part: it says how large that part is.)
"""

PROMOTE = """\
`family` is the name of a key of a baseline or a recipe: `optimizer`, `schedule`, `block`, `crop_padding` and so on.
"""

SPACE = """\
## `[space]`

Every dimension of the search, by name. The defaults are the space of the CIFAR studies; a study file names only what it
changes. A dimension has one of three forms:

```toml
[space]
optimizer = "sgd"                                 # fixed: held, not drawn
k1 = [1, 3]                                       # choices: one of these
sgd_lr = { low = 0.01, high = 0.5, log = true }   # a range, both ends included
growth = { low = 1.0, high = 2.0, step = 0.25 }   # a range on a grid
```

`log` draws uniformly in the logarithm and needs `low` above 0; `step` draws only `low`, `low + step`, and so on, and
`high` has to be one of them. The two exclude each other. All numbers can have any form, but for those that only "fixed
or choices" is said of. What it means to draw or to hold a dimension is on [the page about the space](space.md).

Of the schedules, only `"cosine"` and `"one-cycle"` reach zero at the end of a run. The others are refused, unless every
trial scores averaged weights (`ema_decay` above 0): a short run would otherwise be a long one cut off.
"""

BASELINES = """\
## `[baselines.NAME]`

Known networks. Those that the budget, the limit on multiply-adds and the space hold are the first trials, under their
names; `search count` lists all of them with their sizes. Channels of the images and number of classes are taken from
the data, whatever the table says.

```toml
[baselines.resnet-8]
widths = [16, 32, 64]
blocks = [1, 1, 1]
```
"""

RECIPE = """\
## `[baseline_recipe]`

The recipe of the baselines: names from the two parts of `[space]` that follow the network, each with one value. Where
the space draws a dimension, it has to hold the value, or the baselines are left out; where the space holds a dimension
fixed, the space's value is used. Dimensions that are not named are drawn for each baseline.

```toml
[baseline_recipe]
optimizer = "sgd"
sgd_lr = 0.1
schedule = "cosine"
batch_size = 128
```
"""

PUBLISHED = """\
## `[published]`

What a report printed of the baselines, for [`search reproduce`](published.md).

```toml
[baselines.resnet-8]
widths = [16, 32, 64]
blocks = [1, 1, 1]

[published]
title = "Doe 2020, Small Residual Networks"

[published.recipe]
lr = 0.1
augment = { crop_padding = 4 }

[published.rows.R8]
network = "resnet-8"
parameters = 78_042
accuracy = 84.1
epochs = 60
recipe = { lr = 0.05 }
```
"""

ROWS = """\
### `[published.rows.NAME]`
"""

RUN_RECIPE = """\
### `[published.recipe]`

How a run is trained. Unlike in `[space]`, each key has one value, and there is one learning rate and one decay, for
whichever optimizer. `epochs`, `seed` and `precision` are the row's and the command's. What changes the images stands in
`augment`, by the names that `[space]` has for it; each of `copies` has these names, too, and `mirror` (horizontal flip
of all images), and changes nothing of its own accord.
"""


def page() -> str:
    """The whole page, as Markdown."""
    study = _schema(StudySpec)
    tables = {name for name in study if "$ref" in study[name]} | {"baselines", "baseline_recipe", "published"}
    plain = {name: key for name, key in study.items() if name not in tables}
    parts = [HEAD, "## At the top\n", _table(plain)]
    for name, spec in (("pruner", PrunerSpec), ("phases", PhasesSpec), ("promote", PromoteSpec)):
        parts += [f"## `[{name}]`\n", _first_words(spec), _table(_schema(spec))]
    parts.append(PROMOTE)
    parts.append(SPACE)
    for heading, more, dimensions in _space_groups():
        parts += [f"### {heading}\n", more, _table(dimensions)]
    parts += [BASELINES, _table(_schema(ResNetSpec)), RECIPE]
    parts += [PUBLISHED, _table({name: key for name, key in _schema(Published).items() if "description" in key})]
    parts += [ROWS, _table(_schema(Row))]
    fixed = {"epochs", "seed", "precision", "augment"}
    parts += [RUN_RECIPE, _table({name: key for name, key in _schema(TrainSpec).items() if name not in fixed})]
    described = {"pruner", "phases", "promote", "space", "baselines", "baseline_recipe", "published"}
    if missing := tables - described:
        raise ValueError(f"say something about the tables {missing}")
    return "\n".join(part for part in parts if part)


def _schema(spec: type[Frozen]) -> Mapping[str, Any]:
    """What JSON Schema says of each key; `required` where there is no default."""
    schema = spec.model_json_schema()
    required = schema.get("required", [])
    return {name: {**key, "required": name in required} for name, key in schema["properties"].items()}


def _first_words(spec: type[Frozen]) -> str:
    return inspect.cleandoc(spec.__doc__ or "") + "\n"


def _space_groups() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The groups of the space's dimensions: heading, what to know, and the dimensions with what they are."""
    groups = list[tuple[str, str, dict[str, Any]]]()
    for name, dimension in _schema(Space).items():
        if name in GROUPS:
            heading, words = GROUPS[name]
            groups.append((heading, words + "\n" if words else "", {}))
        groups[-1][2][name] = {**dimension, "description": _description(name, dimension)}
    yield from groups


def _description(name: str, dimension: Mapping[str, Any]) -> str:
    """What a dimension is: in its own words, or in those of the spec that has a field of this name."""
    if "description" in dimension:
        return str(dimension["description"])
    optimizer, _, value = name.partition("_")
    field, more = (value, f", for {optimizer}") if optimizer in OPTIMIZERS else (name, "")
    for spec in (ResNetSpec, TrainSpec, AugmentSpec):
        if field in spec.model_fields and (known := spec.model_fields[field].description):
            return known + more
    raise ValueError(f"nothing says what the dimension {name} is: give it a description in Space")


def _table(keys: Mapping[str, Any]) -> str:
    lines = ["| key | what it is | may be | default |", "|---|---|---|---|"]
    for name, key in keys.items():
        words = key["description"].replace("|", "\\|")
        default = "none: give it" if key["required"] else _default(key.get("default"))
        lines.append(f"| `{name}` | {words} | {_kind(key)} | {default} |")
    return "\n".join(lines) + "\n"


def _kind(key: Mapping[str, Any]) -> str:
    """What values a key can have, in words."""
    if "oneOf" in key:  # a dimension: fixed, choices and perhaps a range
        return _kind(key["oneOf"][0]) + ("" if len(key["oneOf"]) > 2 else "; fixed or choices")
    if "anyOf" in key:
        return " or ".join(_kind(each) for each in key["anyOf"] if each != {"type": "null"}) + ", or left out"
    if "$ref" in key:
        return "table"
    if "enum" in key:
        return "one of " + ", ".join(f"`{_toml(value)}`" for value in key["enum"])
    if key["type"] == "array":
        least, most = key.get("minItems"), key.get("maxItems")
        how_many = f"{least} to {most}, " if least and most else ""
        return f"list: {how_many}each {_kind(key['items'])}"
    words = {
        "boolean": "`true` or `false`",
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "object": "table",
    }[key["type"]]
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{bounds[bound]} {key[bound]:,}" for bound in bounds if bound in key]
    return ", ".join([words, *limits])


def _default(value: Any) -> str:
    return "none" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """A value as it is written in a study file."""
    if isinstance(value, dict):  # a range: what is not given is not written
        given = {key: each for key, each in value.items() if each is not None and each is not False}
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in given.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and len(repr(value)) > 8:
        return f"{value:.3f}"
    return json.dumps(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
