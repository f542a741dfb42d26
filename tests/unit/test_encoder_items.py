"""The item encoder: states see nothing behind them and no other history, unknown and new items have a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.data.collate import collate
from heliostat.encoders.item_catalogue import Catalogue, read_texts
from heliostat.encoders.items import EARLIER, ITEMS, ItemEncoder
from heliostat.encoders.items_module import ItemModule
from heliostat.errors import DataError
from heliostat.features import ItemFeatures

STARTS = ((0, 5), (3, 7), (6, 9))
TRAIN = [{"history": [f"i{(start + step) % 9}" for step in range(length)]} for start, length in STARTS]


def encoder(**settings: Any) -> ItemEncoder:
    made = ItemEncoder(ItemEncoder.Config(**{"dim": 16, "dropout": 0.0, **settings}))
    made.fit(TRAIN)
    return made


def module(made: ItemEncoder) -> ItemModule:
    torch.manual_seed(1)
    found = made.module().eval()
    assert isinstance(found, ItemModule)
    return found


def features(made: ItemEncoder, computes: ItemModule, *histories: list[str]) -> ItemFeatures:
    encoded = made.encode([{"history": history} for history in histories])
    with torch.no_grad():
        return computes(collate(encoded, np.arange(len(histories), dtype=np.uint64)))


def test_histories_of_a_batch_see_nothing_of_each_other() -> None:
    made = encoder()
    computes = module(made)
    histories = [["i1", "i2", "i3"], [], ["i4"], ["i5", "i6", "i7", "i8", "i0"]]
    together = features(made, computes, *histories)
    alone = [features(made, computes, history) for history in histories]
    torch.testing.assert_close(together.states, torch.cat([each.states for each in alone]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.pooled, torch.cat([each.pooled for each in alone]), rtol=1e-5, atol=1e-5)
    assert together.tokens.lengths == (4, 1, 2, 6)


def test_a_state_depends_on_nothing_behind_it() -> None:
    made = encoder(layers=3)
    computes = module(made)
    one, other = (features(made, computes, ["i1", "i2", "i3", last]).states for last in ("i4", "i5"))
    assert torch.equal(one[:-1], other[:-1])
    assert not torch.equal(one[-1], other[-1])


def test_unknown_items_say_nothing_and_an_empty_history_has_a_state() -> None:
    made = encoder()
    computes = module(made)
    known = features(made, computes, ["i1", "i2"]).pooled
    assert torch.equal(features(made, computes, ["never", "i1", "seen", "i2"]).pooled, known)
    empty = features(made, computes, []).pooled
    assert torch.equal(features(made, computes, ["never"]).pooled, empty)
    assert bool(empty.isfinite().all())


def test_a_long_history_is_read_from_its_end_and_the_rest_is_kept_beside_it() -> None:
    (encoded,) = encoder(max_history=3).encode([{"history": ["i0", "i1", "i0", "i2", "i3", "i4"]}])
    numbers = encoder().catalogue.numbers
    assert encoded[ITEMS].tolist() == [0, *numbers(["i2", "i3", "i4"])]  # type: ignore[union-attr]
    assert encoded[EARLIER].tolist() == numbers(["i0", "i1"])  # type: ignore[union-attr]


@pytest.mark.parametrize("history", [None, "i1", [1, 2], {"i1": 1}])
def test_a_field_that_is_no_list_of_names_is_refused(history: Any) -> None:
    with pytest.raises(DataError, match="must be a list of item names"):
        encoder().encode([{"history": history}])


def test_without_any_item_there_is_nothing_to_fit() -> None:
    with pytest.raises(DataError, match="finds no item"):
        ItemEncoder().fit([{"history": []}])


def test_heads_must_divide_the_width_and_text_only_needs_texts() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        ItemEncoder.Config(dim=10, heads=4)
    with pytest.raises(ValueError, match="no effect"):
        ItemEncoder.Config(text_only=0.1)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [f"i{number},{'red' if number % 2 else 'blue'} bag {number}" for number in range(9)]
    (tmp_path / "items.csv").write_text("item,text\n" + "\n".join([*rows, "new,red bag 10"]), encoding="utf-8")
    return tmp_path / "items.csv"


def test_an_item_that_nobody_took_yet_has_a_place_by_its_text(texts: Path, tmp_path: Path) -> None:
    made = encoder(texts=str(texts))
    assert made.catalogue.names[-1] == "new"
    assert made.catalogue.num_warm == 9
    table = module(made).table().detach()
    new, red, blue = (table[made.catalogue.numbers([name])[0]] for name in ("new", "i1", "i2"))
    own = module(made).items.weight.detach()[made.catalogue.numbers(["i1", "i2"])]
    near = torch.cosine_similarity(new, torch.stack([red - own[0], blue - own[1]]))
    assert float(near[0]) == pytest.approx(1.0, abs=1e-5)  # the words red and bag, as the text of i1 alone
    assert float(near[1]) < 0.9
    made.save(tmp_path)
    again = ItemEncoder(made.config)
    again.load(tmp_path)
    assert again.catalogue.names == made.catalogue.names
    assert again.encode([{"history": ["new"]}])[0][ITEMS].tolist() == [0, 10]  # type: ignore[union-attr]


def test_the_table_of_texts_counts_in_the_key_of_the_data(texts: Path) -> None:
    made = ItemEncoder(ItemEncoder.Config(texts=str(texts)))
    before = made.fingerprint()
    texts.write_text(texts.read_text().replace("red", "green"), encoding="utf-8")
    assert made.fingerprint() != before


def test_texts_that_cannot_be_read_are_refused(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(DataError, match="needs the columns 'item' and 'title'"):
        read_texts(str(texts), "item", "title")
    with pytest.raises(DataError, match=r"must be a \.parquet, \.csv or \.jsonl file"):
        read_texts(str(tmp_path / "none.csv"), "item", "text")
    with pytest.raises(DataError, match="no installed package"):
        read_texts("package:no_such_package/items.csv", "item", "text")


def test_answers_keep_their_item_vectors_and_training_forgets_them(texts: Path) -> None:
    made = encoder(texts=str(texts))
    computes = module(made)
    with torch.no_grad():
        assert computes.table() is computes.table()
        computes.items.weight += 1.0
        before = computes.table()
        assert not torch.equal(computes.eval().table(), before)


def test_layers_tell_their_depth() -> None:
    made = encoder()
    depths = {name: made.depth_of(name) for name, _ in module(made).named_parameters()}
    assert depths["items.weight"] == depths["places.weight"] == 0
    assert depths["layers.1.read.weight"] == 2
    assert depths["norm.weight"] is None


def test_the_catalogue_is_a_vocabulary() -> None:
    catalogue = Catalogue.of({"b": 1, "a": 2}, {"c": "text", "a": "other"})
    assert catalogue.size == 4
    assert catalogue.text([0, 1, 3]) == "a c"
    assert catalogue.ids("b") == [2]
    assert catalogue.ids("never") == []
    assert catalogue.starts_word() == [True] * 4
