from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_sampler.data.database import Database, DatabaseError

Content = dict[bytes, bytes]


def write(folder: Path, *batches: Content, remove: list[bytes] | None = None) -> Path:
    """A database, each batch written in a transaction of its own."""
    folder.mkdir(exist_ok=True)
    file = folder / "data.mdb"
    file.unlink(missing_ok=True)
    with lmdb.open(str(folder), map_size=2**27) as environment:
        for batch in batches:
            with environment.begin(write=True) as transaction:
                for key, value in batch.items():
                    transaction.put(key, value)
        with environment.begin(write=True) as transaction:
            for key in remove or []:
                transaction.delete(key)
    return file


def read(file: Path) -> Content:
    found: Content = {}
    with Database(file) as database:
        for leaf in database.leaves():
            for entry, key in enumerate(leaf.keys):
                found[key] = database.value(leaf, entry)
                assert database.value_size(leaf, entry) == len(found[key])
    return found


def content(count: int, size: int, seed: int = 0) -> Content:
    generator = np.random.default_rng(seed)
    return {generator.bytes(20): generator.bytes(size) for _ in range(count)}


# up to four levels of pages; values beside their keys, and on one or several pages of their own
@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, 1), (50, 5000), (300, 1000), (20000, 8)])
def test_it_holds_what_was_written(count: int, size: int, tmp_path: Path) -> None:
    expected = content(count, size)
    found = read(write(tmp_path / "database", expected))
    assert list(found.items()) == sorted(expected.items())


def test_the_last_transaction_counts(tmp_path: Path) -> None:
    batches = [content(100, 300, seed) for seed in range(5)]
    removed = list(batches[1]) + list(batches[4])[:7]
    file = write(tmp_path / "database", *batches, remove=removed)
    everything = {key: value for batch in batches for key, value in batch.items()}
    assert read(file) == {key: everything[key] for key in everything if key not in removed}


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=400), st.binary(max_size=9000), min_size=1, max_size=40
    )
)
def test_any_keys_and_values_come_back(
    tmp_path_factory: pytest.TempPathFactory, expected: Content
) -> None:
    file = write(tmp_path_factory.mktemp("database"), expected)
    assert list(read(file).items()) == sorted(expected.items())


def test_a_wrong_bit_in_a_page_is_an_error_or_changes_a_value_alone(tmp_path: Path) -> None:
    expected = {**content(60, 40), **content(8, 5000, seed=1)}
    file = write(tmp_path / "database", expected)
    data = file.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        # the heads of pages, where the numbers are; the first two could tell of an earlier state
        place = int(generator.integers(2, len(data) // 4096)) * 4096 + int(generator.integers(160))
        damaged[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        try:
            found = read(file)
        except DatabaseError:
            refused += 1
            continue
        assert len(found) == len(expected)
    assert refused > 200


def test_other_databases_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "database", content(3, 8))
    data = bytearray(file.read_bytes())
    for meta in (0, 4096):
        # as of keys that occur more than once
        data[meta + 16 + 24 + 48 + 4] = 4
    file.write_bytes(data)
    with pytest.raises(DatabaseError, match="its keys are integers, reversed or repeated"):
        Database(file)


def test_a_database_of_databases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    with lmdb.open(str(tmp_path / "database"), max_dbs=1) as environment:
        inner = environment.open_db(b"inner")
        with environment.begin(write=True, db=inner) as transaction:
            transaction.put(b"key", b"value")
    with pytest.raises(DatabaseError, match=r"entry 0 of page \d+ holds no value"):
        read(tmp_path / "database" / "data.mdb")


@pytest.mark.parametrize("start", [b"", b"\0" * 8192, b"no database" * 1000])
def test_what_is_no_database_is_refused(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(start)
    with pytest.raises(DatabaseError, match=r"it (does not begin as one|ends at byte 0)"):
        Database(tmp_path / "data.mdb")
    with pytest.raises(FileNotFoundError):
        Database(tmp_path / "nothing.mdb")
