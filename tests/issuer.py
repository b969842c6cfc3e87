"""An issuer of tokens for the tests: keys and signatures by the openssl program, and a server that publishes the keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import free_port

_NEW = {"RS256": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "ES256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "EdDSA": ["ED25519"]}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _openssl(*argv: str, text: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *argv], input=text, capture_output=True, check=True).stdout


def _raw(der: bytes) -> bytes:
    """r and s side by side, from DER: SEQUENCE {INTEGER r, INTEGER s}, all shorter than 128 bytes."""
    r_len = der[3]
    r, s = der[4:4 + r_len], der[6 + r_len:]
    return int.from_bytes(r, "big").to_bytes(32, "big") + int.from_bytes(s, "big").to_bytes(32, "big")


class Key:
    """A key pair in a file; HS256 has a secret instead."""

    def __init__(self, folder: Path, alg: str, kid: str) -> None:
        self.alg, self.kid, self.path = alg, kid, folder / f"{kid}-{len(list(folder.iterdir()))}.pem"
        if alg == "HS256":
            self.path.write_text(b64(hashlib.sha256(kid.encode()).digest()) + "\n")
        else:
            _openssl("genpkey", "-out", str(self.path), "-algorithm", *_NEW[alg])

    def sign(self, text: bytes) -> bytes:
        if self.alg == "HS256":
            return hmac.new(self.path.read_text().strip().encode(), text, hashlib.sha256).digest()
        if self.alg == "EdDSA":  # reads what it signs from a file only
            message = self.path.with_suffix(".msg")
            message.write_bytes(text)
            return _openssl("pkeyutl", "-sign", "-inkey", str(self.path), "-rawin", "-in", str(message))
        signature = _openssl("dgst", "-sha256", "-sign", str(self.path), text=text)
        return _raw(signature) if self.alg == "ES256" else signature

    def jwk(self) -> dict[str, Any]:
        public = _openssl("pkey", "-in", str(self.path), "-pubout", "-outform", "DER")
        more = {"kid": self.kid, "use": "sig", "alg": self.alg}
        if self.alg == "RS256":
            modulus = _openssl("rsa", "-in", str(self.path), "-noout", "-modulus").decode().strip().partition("=")[2]
            return {"kty": "RSA", "n": b64(bytes.fromhex(modulus)), "e": "AQAB", **more}
        if self.alg == "ES256":
            return {"kty": "EC", "crv": "P-256", "x": b64(public[-64:-32]), "y": b64(public[-32:]), **more}
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(public[-32:]), **more}

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Signed claims, which end in a minute unless they say otherwise; None leaves a claim out."""
        head = {"alg": self.alg, "kid": self.kid, "typ": "JWT", **(header or {})}
        body = {"aud": "muster", "exp": int(time.time()) + 60, "iat": int(time.time()), **claims}
        parts = [{k: v for k, v in part.items() if v is not None} for part in (head, body)]
        text = ".".join(b64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{b64(self.sign(text.encode()))}"


class Publisher:
    """Publishes keys over HTTP, counts who asks, and fails when told to."""

    def __init__(self, tls: Path | None = None) -> None:
        """tls: a folder that gets cert.pem, which names this machine and nobody else has signed."""
        self.keys: list[dict[str, Any]] = []
        self.status, self.hits, self.cache = 200, 0, "max-age=3600"
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.hits += 1
                body = json.dumps({"keys": publisher.keys}).encode()
                self.send_response(publisher.status)
                self.send_header("Cache-Control", publisher.cache)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        if tls:
            _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=keys", "-addext", "subjectAltName=DNS:localhost",
                     "-keyout", str(tls / "key.pem"), "-out", str(tls / "cert.pem"))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self._server.server_port}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
