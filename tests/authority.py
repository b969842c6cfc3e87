"""Certificates for the tests, by the openssl command: an authority, and what it signs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


def _openssl(*argv: str) -> None:
    subprocess.run(["openssl", *argv], check=True, capture_output=True)


@dataclass(frozen=True)
class Pair:
    cert: Path
    key: Path


class Authority:
    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        self.cert, self._key = self.folder / "ca.pem", self.folder / "ca.key"
        self._n = 0
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(self._key),
                 "-out", str(self.cert), "-subj", f"/CN={name}", "-days", "3650", "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def issue(self, hosts: str = "IP:127.0.0.1", days: int = 365, purpose: str = "serverAuth,clientAuth", name: str = "muster_broker") -> Pair:
        """days below zero: it has ended that many days ago."""
        self._n += 1
        base = self.folder / f"{self._n}"
        pair, request, extensions = Pair(base.with_suffix(".pem"), base.with_suffix(".key")), base.with_suffix(".csr"), base.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={hosts}\nextendedKeyUsage={purpose}\nkeyUsage=critical,digitalSignature\n"
                              "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(pair.key), "-out", str(request),
                 "-subj", f"/CN={name}")
        if days > 0:
            _openssl("x509", "-req", "-in", str(request), "-CA", str(self.cert), "-CAkey", str(self._key), "-CAcreateserial", "-days", str(days),
                     "-extfile", str(extensions), "-out", str(pair.cert))
        else:
            self._issue_ended(request, extensions, pair)
        return pair

    def _issue_ended(self, request: Path, extensions: Path, pair: Pair) -> None:
        """Only `openssl ca` can be told dates."""
        database = self.folder / "index.txt"
        database.write_text("")
        config = self.folder / "ca.cnf"
        config.write_text(f"[ca]\ndefault_ca=d\n[d]\ndatabase={database}\nnew_certs_dir={self.folder}\nrand_serial=yes\ndefault_md=sha256\n"
                          "policy=p\n[p]\ncommonName=supplied\n")
        _openssl("ca", "-batch", "-config", str(config), "-cert", str(self.cert), "-keyfile", str(self._key), "-in", str(request), "-out",
                 str(pair.cert), "-extfile", str(extensions), "-startdate", "20200101000000Z", "-enddate", "20200201000000Z", "-notext")


def install(pair: Pair, cert: Path, key: Path) -> None:
    """Both files in place as renewers put them there: whole, one after the other."""
    for source, target in ((pair.cert, cert), (pair.key, key)):
        beside = target.with_name(target.name + ".new")
        beside.write_bytes(source.read_bytes())
        beside.chmod(0o600 if target == key else 0o644)
        os.replace(beside, target)
