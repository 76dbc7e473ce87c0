"""Public files: a local mirror, the cache, or a download that is verified."""

import hashlib
import os
import zipfile
from pathlib import Path

from .._save import write_atomically
from ._source import DataError


def cache_folder() -> Path:
    """Where data sets that are fetched or made are kept: `$SCIML_CACHE/data`, by default `~/.cache/sciml/data`."""
    own = os.environ.get("SCIML_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sciml"
    return base / "data"


def fetch(path: str, url: str, sha256: str | None, *, member: str | None = None) -> Path:
    """A public file on this machine.

    It is looked for at `$SCIML_DATA/path` (a local mirror, whose SHA-256 must agree), then in the cache; otherwise it
    is downloaded there from `url` and verified. With `member`, `url` is a zip archive (a wheel is one), the file
    is that member of it, and the archive stays in the cache for other members. Where only an MD5 sum is published,
    `sha256` may be that, as `md5:...`; where no sum is known, None: the file is taken as it is, and the caller checks
    what it holds.

    Raises DataError where the checksum differs, or where the file is not here and cannot be downloaded.
    """
    found = find_local(path, sha256)
    if found is not None:
        return found
    kept = cache_folder() / path
    if member is None:
        _download(url, kept, sha256)
        return kept
    archive = cache_folder() / url.rpartition("/")[2]
    if not archive.is_file():
        _download(url, archive, None)
    try:
        with zipfile.ZipFile(archive) as opened:
            content = opened.read(member)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataError(
            f"{archive}: no '{member}' in it ({error}); delete it, so that it is downloaded again"
        ) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"'{member}' in {archive} has another SHA-256 than the expected {sha256}; delete the archive")
    write_atomically(kept, lambda file: file.write(content))
    return kept


def find_local(path: str, sha256: str | None) -> Path | None:
    """The file in the mirror or in the cache, or None; of any content where the checksum is None. Raises DataError
    where a file of the mirror has another checksum; one of the cache is deleted.
    """
    mirror = os.environ.get("SCIML_DATA")
    if mirror and (Path(mirror) / path).is_file():
        found = Path(mirror) / path
        actual = checksum(found, sha256 or "")
        if sha256 is not None and actual != sha256:
            raise DataError(
                f"{found}: checksum {actual}, expected {sha256}; it is damaged or another version. Replace it, or "
                "unset SCIML_DATA to download the file."
            )
        return found
    kept = cache_folder() / path
    if kept.is_file():
        if sha256 is None or checksum(kept, sha256) == sha256:
            return kept
        kept.unlink()
    return None


def checksum(path: Path, like: str = "") -> str:
    """The SHA-256 of a file, or the MD5 as `md5:...` where `like` is one."""
    with open(path, "rb") as file:
        if like.startswith("md5:"):
            return "md5:" + hashlib.file_digest(file, "md5").hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, sha256: str | None) -> None:
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = sha256 if sha256 is None or ":" in sha256 else f"sha256:{sha256}"
    try:
        pooch.retrieve(url, known_hash=known, fname=path.name, path=path.parent)
    except ValueError as error:
        raise DataError(f"{url} has another SHA-256 than the expected {sha256}: it changed ({error})") from error
    except Exception as error:
        mirror = os.environ.get("SCIML_DATA")
        looked = f"$SCIML_DATA ({mirror})" if mirror else "$SCIML_DATA (not set)"
        raise DataError(
            f"'{path.name}' is neither in {looked} nor in the cache, and {url} cannot be reached: "
            f"{type(error).__name__}: {error}. Without network, download it elsewhere and put it at {path}, or set "
            "SCIML_DATA to a mirror."
        ) from error
