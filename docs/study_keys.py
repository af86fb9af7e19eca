"""Writes the page of all keys of a study file, from the specs that validate it: `python docs/study_keys.py`."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.published import Published, Row
from search.spec import PhasesSpec, PromoteSpec, PrunerSpec, StudySpec
from space import GROUPS, Space
from train_core.optimizers import OPTIMIZERS
from train_core.reading import Reading
from train_core.specs import AugmentSpec, Frozen, ResNetSpec, TrainSpec

PAGE = Path(__file__).with_name("study-files.md")

HEAD = """\
<!-- Made by `python docs/study_keys.py` from the code that reads study files: change it there. -->

# Study files

You can write your own study as a TOML file: data, budget, effort, space, and the networks to try first. The smallest
study file has two lines, because only two keys have no default:

```toml
data = "digits"
budget = 20_000
```

The studies that come with the tool are in `studies/`. Give your own file by its path:

    search run my-study.toml
    search count my-study.toml

A key that is not in the file has its default. Flags override the file: use `--budget`, `--trials` and other flags for
one run, and the file for lasting values (the flag of `short_run_images` is `--images`). An unknown key, a value out of
range or a file that is not TOML is refused in one line. The line names the key and suggests the key that you probably
meant. The tool reads a file as data and executes nothing in it.

You can write budgets and limits on multiply-adds as text, as on the command line: `"5M"`, `"200k"`, `"5e6"`.

The run folder contains the study as it was run, with every key, in `study.toml`. When you continue a run, you can
change `trials`, `[promote]` and the baselines, and the data may be in another place if the images are the same. Any
other difference is refused, and the message names the key, because the trials could not be compared. (`promote.epochs`
must also stay the same if short runs train on a part of the images, because it determines the size of that part.)
"""

PROMOTE = """\
`family` is the name of a key of a baseline or a recipe: `optimizer`, `schedule`, `block`, `crop_padding` and so on.

With `asam` (or `search promote --asam 0.5`), full runs take adaptive sharpness-aware steps (Kwon et al. 2021): each
step computes the gradients at a point near the weights where the loss is high, for the same batch. Short runs never do,
so the search takes no longer. All full runs of a run have the same `asam`; a command with another value is refused.
"""

SPACE = """\
## `[space]`

Every dimension of the search, by name. The defaults are for images of 32x32 pixels; a study file names only the
dimensions that it changes. A dimension has one of these forms:

```toml
[space]
optimizer = "sgd"                                 # fixed: one value, not drawn
k1 = [1, 3]                                       # choices: one of these values
k2 = { choices = [3, 5], weights = [9, 1] }       # choices with weights: 3 in nine of ten random draws
sgd_lr = { low = 0.01, high = 0.5, log = true }   # a range, both ends included
growth = { low = 1.0, high = 2.0, step = 0.25 }   # a range on a grid
blocks = { low = 1, high = 18, mostly = [1, 5] }  # 1 to 5 in 98 % of the random draws
```

`log` draws uniformly in the logarithm and needs `low` above 0. `step` draws only `low`, `low + step`, and so on, and
`high` must be one of these values. `log` and `step` exclude each other. Keys accept all forms, but no range where the
table says "fixed or choices". `weights` and `mostly` count in random draws; later, the sampler proposes what the
results suggest. [The page about the space](space.md) explains what it means to draw or to fix a dimension.

Of the schedules, only `"cosine"` and `"one-cycle"` reach zero at the end of a run. The others are refused, unless every
trial scores averaged weights (`ema_decay` above 0). Otherwise, a short run would be a full run that is cut off.
"""

BASELINES = """\
## `[baselines.NAME]`

Baselines are networks that are tried first, under their names, if they fit the budget, the limit on multiply-adds and
the space. `search count` lists all of them with their sizes. The number of image channels and the number of classes are
taken from the data, not from the table.

```toml
[baselines.resnet-8]
widths = [16, 32, 64]
blocks = [1, 1, 1]
```
"""

RECIPE = """\
## `[baseline_recipe]`

The recipe of the baselines. Its keys are those of the two parts of `[space]` after the network, each with one value. If
the space draws a dimension, it must contain the value, or the baselines are left out. If the space fixes a dimension,
the value of the space is used. Dimensions that are not named are drawn for each baseline.

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

The published results of the baselines, for [`search reproduce`](published.md).

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

The recipe of a published result. In contrast to `[space]`, each key has one value, and there is one learning rate and
one weight decay for all optimizers. `epochs`, `seed` and `precision` come from the row and the command. Changes to the
images are in `augment`, with the names of `[space]`. Each of `copies` has these names as well, and `mirror` (horizontal
flip of all images); by default, a copy changes nothing.
"""


def page() -> str:
    """The whole page, as Markdown."""
    study = _schema(StudySpec)
    tables = {name for name in study if "$ref" in study[name]} | {"baselines", "baseline_recipe", "published"}
    plain = {name: key for name, key in study.items() if name not in tables}
    parts = [HEAD, "## At the top\n", _table(plain)]
    for name, spec in (("reading", Reading), ("pruner", PrunerSpec), ("phases", PhasesSpec), ("promote", PromoteSpec)):
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
    described = {"reading", "pruner", "phases", "promote", "space", "baselines", "baseline_recipe", "published"}
    if missing := tables - described:
        raise ValueError(f"these tables have no text on the page: {missing}")
    return "\n".join(part for part in parts if part)


def _schema(spec: type[Frozen]) -> Mapping[str, Any]:
    """The JSON Schema of each key; `required` is true if there is no default."""
    schema = spec.model_json_schema()
    required = schema.get("required", [])
    return {name: {**key, "required": name in required} for name, key in schema["properties"].items()}


def _first_words(spec: type[Frozen]) -> str:
    return inspect.cleandoc(spec.__doc__ or "") + "\n"


def _space_groups() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The groups of the dimensions of the space: heading, introduction, and dimensions with their descriptions."""
    groups = list[tuple[str, str, dict[str, Any]]]()
    for name, dimension in _schema(Space).items():
        if name in GROUPS:
            heading, words = GROUPS[name]
            groups.append((heading, words + "\n" if words else "", {}))
        groups[-1][2][name] = {**dimension, "description": _description(name, dimension)}
    yield from groups


def _description(name: str, dimension: Mapping[str, Any]) -> str:
    """The description of a dimension: its own, or that of the spec field with this name."""
    if "description" in dimension:
        return str(dimension["description"])
    optimizer, _, value = name.partition("_")
    known_optimizer = next((each for each in OPTIMIZERS if each == optimizer), None)
    field, more = (value, f", for {optimizer}") if known_optimizer else (name, "")
    if known_optimizer and value == "lr" and not isinstance(dimension["default"], dict):
        low, high = OPTIMIZERS[known_optimizer].lr
        more += f"; `{_toml({'low': low, 'high': high, 'log': True})}` if `optimizer` names it"
    for spec in (ResNetSpec, TrainSpec, AugmentSpec):
        if field in spec.model_fields and (known := spec.model_fields[field].description):
            return known + more
    raise ValueError(f"the dimension {name} has no description: give it one in Space")


def _table(keys: Mapping[str, Any]) -> str:
    lines = ["| key | description | values | default |", "|---|---|---|---|"]
    for name, key in keys.items():
        words = key["description"].replace("|", "\\|")
        default = "required" if key["required"] else _default(key.get("default"))
        lines.append(f"| `{name}` | {words} | {_kind(key)} | {default} |")
    return "\n".join(lines) + "\n"


def _kind(key: Mapping[str, Any]) -> str:
    """The valid values of a key, in words."""
    if "oneOf" in key:  # a dimension: fixed, choices and sometimes a range
        return _kind(key["oneOf"][0]) + ("" if len(key["oneOf"]) > 3 else "; fixed or choices")
    if "anyOf" in key:
        return " or ".join(_kind(each) for each in key["anyOf"] if each != {"type": "null"}) + ", or left out"
    if "$ref" in key:
        return "table"
    if "enum" in key:
        return "one of " + ", ".join(f"`{_toml(value)}`" for value in key["enum"])
    if "prefixItems" in key:  # a size, which is read from other forms too
        return '`64` or `"96x64"`'
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
    """A value in the form of a study file."""
    if isinstance(value, dict):  # a range, without the keys that are not set
        given = {key: each for key, each in value.items() if each is not None and each is not False}
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in given.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and len(repr(value)) > 8:
        return f"{value:.3f}"
    return json.dumps(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
